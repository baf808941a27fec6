"""Touching a machine: files, systemd, pinned HTTPS, the Kubernetes API. Shared by all programs."""
