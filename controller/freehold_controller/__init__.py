"""The control plane's own controller: approves, keeps DNS endpoints, writes node documents.

It listens nowhere and holds no signing key. One of its instances leads (`leader`); the others wait.
"""
