"""Where the lab keeps things on this host, and how it talks while it works. Knows no machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
VAGRANT_DIRECTORY = os.path.join(CHECKOUT, "vagrant")
COMMITTED_INVENTORY = os.path.join(CHECKOUT, "inventories", "lab.yaml")
_STARTED = time.monotonic()


def cache() -> str:
    """Return the lab's directory outside the checkout (image, key, locks)."""
    root = os.environ.get("FREEHOLD_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        root = os.path.join(base, "freehold")
    return os.path.join(root, "lab")


def key() -> str:
    """Return the path of the private key that opens every lab machine made from this cache."""
    return os.path.join(cache(), "ssh", "id_ed25519")


def inventory(lab: str, default: str) -> str:
    """Return the path of the lab's generated inventory; the default lab's bears the committed one's name."""
    return os.path.join(CHECKOUT, "inventories", "generated", "lab.yaml" if lab == default else f"{lab}.yaml")


def vagrant_state(lab: str, default: str) -> str:
    """Return Vagrant's directory for this lab: its usual one for the default lab, so that plain `vagrant` works."""
    return os.path.join(CHECKOUT, ".vagrant" if lab == default else os.path.join(".vagrant", "labs", lab))


def say(message: str) -> None:
    """Print one timed line of progress on stderr."""
    print(f"[lab {time.monotonic() - _STARTED:5.1f}s] {message}", file=sys.stderr, flush=True)


def own(path: str) -> None:
    """Give what sudo made back to the person who typed the command."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if os.geteuid() == 0 and uid and gid and os.path.exists(path):
        os.chown(path, int(uid), int(gid))


@contextlib.contextmanager
def locked(lab: str) -> Iterator[None]:
    """Let one command at a time change this lab."""
    os.makedirs(cache(), mode=0o700, exist_ok=True)
    with open(os.path.join(cache(), f"{lab}.lock"), "w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another command is changing {lab}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
