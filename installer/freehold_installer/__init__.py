"""The installer: inventory, release bundle, plan and apply over SSH, from the operator's machine."""

__version__ = "0.1.0"
