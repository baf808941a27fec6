"""What the operator asks for: the inventory file, read, checked as a whole and frozen.

Knows nothing of SSH, of machines as they are, or of bundles (the known releases are handed to `load`).
"""

from freehold_installer.config.cluster import ClusterConfig, Taint
from freehold_installer.config.loading import load, loads
from freehold_installer.config.model import Host, Inventory, SshSettings
from freehold_installer.config.problems import InventoryError, Problem

__all__ = [
    "ClusterConfig",
    "Host",
    "Inventory",
    "InventoryError",
    "Problem",
    "SshSettings",
    "Taint",
    "load",
    "loads",
]
