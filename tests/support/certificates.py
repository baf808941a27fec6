"""Certificates with any subject, signed by a cluster's own CA: what only a thief of `ca.key` could make."""

from datetime import datetime, timezone
from unittest import mock

from freehold_bootstrap import profiles
from freehold_bootstrap.authority import Issued
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest, Profile


def signed(
    pki: PkiDirectory, common_name: str, groups: tuple[str, ...], usage: str = "client", authority: str = "ca"
) -> Issued:
    """Return a pair with this subject; `usage` is `client` or `server`."""
    rules = Profile(authority, common_name, (usage,), groups)
    with mock.patch.dict(profiles.PROFILES, {"any": rules}):
        names = ("localhost",) if usage == "server" else ()
        request = CertificateRequest("any", names)
        return pki.authority(authority).issue(request, datetime.now(timezone.utc))
