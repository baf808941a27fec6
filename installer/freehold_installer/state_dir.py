"""The operator's own files of one cluster: keys, journal, lock, known hosts, kubeconfig.

Everything is below one directory that only its owner can read. It knows names, not contents.
"""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from freehold_installer.errors import InputError


@dataclass(frozen=True)
class StateDir:
    path: Path

    def create(self) -> "StateDir":
        """Make the directory, mode 0700. Raises InputError if others can get at it or it cannot be made."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise InputError(
                f"the state directory {self.path} cannot be made: {error.strerror}",
                hint="XDG_STATE_HOME says where it goes",
            ) from error
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise InputError(
                f"the state directory {self.path} holds private keys but others can get at it",
                hint=f"chown it to yourself and: chmod 700 {self.path}",
            )
        return self

    @property
    def exists(self) -> bool:
        return self.path.is_dir()

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def known_hosts(self) -> Path:
        return self.path / "known_hosts"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    def write_private(self, name: str, content: bytes) -> Path:
        """Replace a file whole, mode 0600 from its first byte on. Returns its path."""
        path = self.path / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def save_failure(self, text: str) -> Path:
        """Keep the traceback of an unexpected failure. Returns where."""
        return self.write_private(
            f"failures/{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt", text.encode()
        )
