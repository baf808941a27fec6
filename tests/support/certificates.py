"""Certificates with any subject, signed by a cluster's own CA: what only a thief of `ca.key` could make."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional

from cryptography import x509

from freehold_bootstrap.authority import Issued
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest, Profile


@dataclass(frozen=True)
class _AnyRequest(CertificateRequest):
    """A request outside of the table of profiles."""

    own_rules: Optional[Profile] = None

    @property
    def rules(self) -> Profile:
        return self.own_rules or super().rules


def expired(pki: PkiDirectory, common_name: str, groups: tuple[str, ...]) -> Issued:
    """Return a client's pair that was valid for a minute, when the authority was new."""
    begun = x509.load_pem_x509_certificate(pki.ca_pem().encode()).not_valid_before_utc
    rules = Profile("ca", common_name, ("client",), groups, timedelta(minutes=1))
    return pki.authority("ca").issue(_AnyRequest("any", (), "", rules), begun + timedelta(seconds=1))


def signed(
    pki: PkiDirectory, common_name: str, groups: tuple[str, ...], usage: str = "client", authority: str = "ca"
) -> Issued:
    """Return a pair with this subject; `usage` is `client` or `server`."""
    rules = Profile(authority, common_name, (usage,), groups)
    names = ("localhost",) if usage == "server" else ()
    request = _AnyRequest("any", names, "", rules)
    return pki.authority(authority).issue(request, datetime.now(timezone.utc))
