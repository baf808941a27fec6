"""The release that is installed: the built bundle, and the two zipapps made from the installed packages."""

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.bundle.coredns_image import stored_coredns_image
from freehold_installer.bundle.store import Store
from freehold_installer.bundle.zipapps import stored_zipapps
from freehold_installer.config.cluster import ClusterConfig
from freehold_installer.errors import UnfitError

METRICS_SERVER_IMAGE = "images/metrics-server.tar"
SHIPPED = frozenset(("control-plane", "node"))
"""Roles whose files go to machines; `operator` and `test` stay here."""


def unwanted(config: ClusterConfig) -> set[str]:
    """Return the programs of the bundle that this cluster does without."""
    found = set()
    if not config.deploy.cni.flannel.enabled:
        found.add("bin/flanneld")
    if not config.deploy.kube_proxy.enabled:
        found.add("bin/kube-proxy")
    if not config.control_plane.coredns.embedded:
        found.add("bin/coredns")
    return found


def manifest_for(
    store: Store,
    release: str,
    architectures: dict[str, str],
    *,
    metrics_server: bool,
    unwanted: Collection[str] = (),
    coredns_image: bool = False,
) -> Manifest:
    """Return what is installed on machines of these architectures (machine -> architecture), without `unwanted`.

    The image of CoreDNS is made when it is asked for.

    Raises BundleError when the bundle was not built, UnfitError when machines differ.
    """
    kinds = sorted(set(architectures.values()))
    if len(kinds) > 1:
        listing = ", ".join(f"{name} {kind}" for name, kind in architectures.items())
        raise UnfitError(f"machines of several architectures in one cluster are not possible yet: {listing}")
    bundle = store.load_manifest(release, kinds[0])
    left_out = {*unwanted, *(() if metrics_server else (METRICS_SERVER_IMAGE,))}
    shipped = [entry for entry in bundle.entries if set(entry.roles) & SHIPPED and entry.name not in left_out]
    made = [*stored_zipapps(store).values()]
    if coredns_image:
        made.append(stored_coredns_image(store, bundle))
    entries = tuple(sorted((*shipped, *made), key=lambda entry: entry.name))
    return dataclasses.replace(bundle, entries=entries, build=_digest(entries))


def node_manifest(manifest: Manifest) -> Manifest:
    """Return the entries that nodes get; the build, and with it the release directory, stays the same."""
    return dataclasses.replace(manifest, entries=tuple(manifest.for_roles("node")))


def local_files(store: Store, manifest: Manifest, digests: Sequence[str]) -> list[tuple[Path, str, int]]:
    """Return (path, digest, bytes) of artifacts in the given order, as `Machine.stream` takes them."""
    sizes = {entry.sha256: entry.size for entry in manifest.entries}
    return [(store.path(digest), digest, sizes[digest]) for digest in dict.fromkeys(digests)]


def _digest(entries: Sequence[ArtifactEntry]) -> str:
    total = hashlib.sha256()
    for entry in entries:
        total.update(f"{entry.name} {entry.sha256} {','.join(entry.roles)}\n".encode())
    return total.hexdigest()
