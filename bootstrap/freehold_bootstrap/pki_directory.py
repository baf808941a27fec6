"""The keys and certificates of one cluster on the operator's machine, in kubeadm's `pki/` layout.

What is missing can be asked without writing anything (`plan` prints it); `ensure` issues exactly that, and a
second call nothing. What belongs to one control-plane machine lies in `machines/NAME/`. Operator's side only.
"""

import base64
import contextlib
import json
import os
import secrets
import tempfile
from datetime import datetime, timezone
from typing import Any, Dict, Iterator, List, Optional, Sequence

from freehold_bootstrap import kubeconfig
from freehold_bootstrap.authority import (
    Authority,
    Issued,
    is_authority,
    load_certificate,
    load_key,
    new_key_pair,
    public_pem,
    why_replace,
)
from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.profiles import AUTHORITIES, AUTHORITY_YEARS, CertificateRequest

SERVICE_ACCOUNTS = "sa"
ENCRYPTION = "encryption-at-rest"
_ENCRYPTION_FILE = ENCRYPTION + ".key"


class PkiDirectory:
    """A directory of mode 0700 whose files have mode 0600 from before their first byte."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def reasons(
        self, requests: Sequence[CertificateRequest], now: Optional[datetime] = None
    ) -> Dict[str, str]:
        """Return what is to be issued, name -> why, in the order it would be. Writes nothing.

        Raises PkiError when an authority is damaged: replacing one is never done on the side.
        """
        now = now or datetime.now(timezone.utc)
        result = {name: "missing" for name in AUTHORITIES if not self._authority_is_complete(name)}
        if not self._has("sa.key") or not self._has("sa.pub"):
            result[SERVICE_ACCOUNTS] = "missing"
        if not self._has(_ENCRYPTION_FILE):
            result[ENCRYPTION] = "missing"
        for request in requests:
            reason = self._reason(request, now, fresh_authority=request.rules.authority in result)
            if reason:
                result[request.name] = reason
        return result

    def missing(self, requests: Sequence[CertificateRequest], now: Optional[datetime] = None) -> List[str]:
        """Return the names that `ensure` would issue: `ca`, `sa`, `admin`, `machines/cp1/apiserver`."""
        return list(self.reasons(requests, now))

    def ensure(self, requests: Sequence[CertificateRequest], now: Optional[datetime] = None) -> List[str]:
        """Issue what is missing, of other content, of another authority or about to expire; return the names.

        Safe to repeat after being killed at any moment. Raises PkiError.
        """
        now = now or datetime.now(timezone.utc)
        for request in requests:
            if not request.rules.stored:
                raise PkiError("a certificate {} is never stored".format(request.profile))
        names = self.missing(requests, now)
        for name in names:
            if name in AUTHORITIES:
                self._make_authority(name, now)
            elif name == SERVICE_ACCOUNTS:
                self._make_service_account_keys()
            elif name == ENCRYPTION:
                self._write(_ENCRYPTION_FILE, base64.b64encode(secrets.token_bytes(32)) + b"\n")
        for request in requests:
            if request.name in names:
                issued = self.authority(request.rules.authority).issue(request, now)
                self._write(request.name + ".key", issued.key_pem)
                self._write(request.name + ".crt", issued.certificate_pem)
        return names

    def authority(self, name: str = "ca") -> Authority:
        """Return the authority `ca`, `front-proxy-ca` or `etcd/ca`. Raises PkiError."""
        if not self._has(name + ".key"):
            raise PkiError(
                "{} has no {}.key, so nothing can be issued".format(self.path, name),
                hint="put the key back from a backup of the state directory",
            )
        return Authority.load(self.read(name + ".crt"), self.read(name + ".key"))

    def ca_pem(self, name: str = "ca") -> str:
        """Return the authority's certificate as PEM text."""
        return self.read(name + ".crt").decode()

    def issued(self, request: CertificateRequest) -> Issued:
        """Return the stored pair. Raises PkiError when it is not there."""
        return Issued(self.read(request.name + ".crt"), self.read(request.name + ".key"))

    def certificate_path(self, request: CertificateRequest) -> str:
        return os.path.join(self.path, request.name + ".crt")

    def key_path(self, request: CertificateRequest) -> str:
        return os.path.join(self.path, request.name + ".key")

    def read(self, name: str) -> bytes:
        """Return the bytes of a file named relative to the directory. Raises PkiError."""
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                return file.read()
        except OSError as error:
            raise PkiError(
                "cannot read {}: {}".format(os.path.join(self.path, name), error.strerror)
            ) from error

    def encryption_configuration(self) -> bytes:
        """Return the API server's EncryptionConfiguration: Secrets with secretbox, none plain."""
        provider = {
            "secretbox": {"keys": [{"name": "key1", "secret": self.read(_ENCRYPTION_FILE).decode().strip()}]}
        }
        configuration = {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": [provider]}],
        }
        return (json.dumps(configuration, indent=1, sort_keys=True) + "\n").encode()

    def kubeconfig(self, cluster: str, server: str, request: CertificateRequest) -> Dict[str, Any]:
        """Return a kubeconfig that embeds the stored pair; its user is called by the certificate's CN."""
        pair = self.issued(request)
        return kubeconfig.build(
            cluster,
            server,
            self.ca_pem(),
            request.common_name,
            certificate_pem=pair.certificate_pem.decode(),
            key_pem=pair.key_pem.decode(),
        )

    @contextlib.contextmanager
    def short_lived(self, request: CertificateRequest, now: Optional[datetime] = None) -> Iterator[str]:
        """Yield the path of one PEM (certificate, then key) that is deleted at the end of the block."""
        pair = self.authority(request.rules.authority).issue(request, now or datetime.now(timezone.utc))
        self._make_directories(self.path)
        descriptor, path = tempfile.mkstemp(prefix=".short-lived-", suffix=".pem", dir=self.path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pair.certificate_pem + pair.key_pem)
            yield path
        finally:
            os.unlink(path)

    def _reason(self, request: CertificateRequest, now: datetime, fresh_authority: bool) -> str:
        if not self._has(request.name + ".crt") or not self._has(request.name + ".key"):
            return "missing"
        if fresh_authority:
            return "of another authority"
        issuer = self.read(request.rules.authority + ".crt")
        return why_replace(
            self.read(request.name + ".crt"), self.read(request.name + ".key"), request, issuer, now
        )

    def _authority_is_complete(self, name: str) -> bool:
        """Tell whether the certificate is there. Raises PkiError when it is there and unusable.

        A key alone is an interrupted creation; a certificate alone, an authority whose key is elsewhere.
        """
        if not self._has(name + ".crt"):
            return False
        certificate = load_certificate(self.read(name + ".crt"))
        if not is_authority(certificate):
            raise PkiError("{}.crt in {} is no authority's certificate".format(name, self.path))
        if self._has(name + ".key"):
            Authority.load(self.read(name + ".crt"), self.read(name + ".key"))
        return True

    def _make_authority(self, name: str, now: datetime) -> None:
        key_pem = self.read(name + ".key") if self._has(name + ".key") else None
        authority = Authority.create(AUTHORITIES[name], now, AUTHORITY_YEARS, key_pem)
        if key_pem is None:
            self._write(name + ".key", authority.key_pem)
        self._write(name + ".crt", authority.certificate_pem)

    def _make_service_account_keys(self) -> None:
        # Tokens in use are signed by this key: an existing one is completed, never replaced.
        if self._has("sa.key"):
            public = public_pem(load_key(self.read("sa.key")))
        else:
            private, public = new_key_pair()
            self._write("sa.key", private)
        self._write("sa.pub", public)

    def _has(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.path, name))

    def _write(self, name: str, content: bytes) -> None:
        target = os.path.join(self.path, name)
        directory = os.path.dirname(target)
        self._make_directories(directory)
        # mkstemp creates with mode 0600, so no byte is ever readable by others.
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _make_directories(self, directory: str) -> None:
        """Make the directory and those between it and the root of the PKI, each with mode 0700."""
        if not directory.startswith(self.path):
            raise PkiError("{} lies outside of {}".format(directory, self.path))
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        steps = os.path.relpath(directory, self.path).split(os.sep)
        current = self.path
        for step in ["", *steps]:
            current = os.path.normpath(os.path.join(current, step))
            with contextlib.suppress(FileExistsError):
                os.mkdir(current, 0o700)
            if os.stat(current).st_mode & 0o077:
                os.chmod(current, 0o700)
