"""The control plane's own controller: approves, keeps DNS endpoints, writes node documents; listens nowhere."""
