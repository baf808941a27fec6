"""A release on a machine: files of the bundle in the store, a directory of links to them, and `current`.

Pure. The same function serves control planes and nodes, so that both link one release directory the same way.
"""

from typing import Iterable, List, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.resources import Directory, Link, Resource, digest_of_inputs

AGENT_ENTRY = "bin/freehold-agent.pyz"
"""Manifest entry of the agent's zipapp."""
FOLDERS = ("bin", "cni", "images")
START_ORDER = (
    AGENT_ENTRY,
    "bin/containerd",
    "bin/containerd-shim-runc-v2",
    "bin/ctr",
    "bin/runc",
    "images/pause.tar",
    "cni/",
    "bin/kubelet",
    "bin/flanneld",
    "bin/kube-proxy",
)
"""A node's files in the order in which it starts them; what is not named comes last."""


def release_resources(manifest: Manifest, roles: Tuple[str, ...]) -> List[Resource]:
    """Return directories, artifacts with their links in the manifest's order, and the link `current` last."""
    resources = release_directories(manifest)
    for entry in manifest.for_roles(*roles):
        resources += entry_resources(manifest, entry)
    return [*resources, current_link(manifest)]


def in_start_order(entries: Iterable[ArtifactEntry]) -> List[ArtifactEntry]:
    """Return a node's files in the order in which it needs them."""

    def place(entry: ArtifactEntry) -> int:
        for index, name in enumerate(START_ORDER):
            if entry.name == name or (name.endswith("/") and entry.name.startswith(name)):
                return index
        return len(START_ORDER)

    return sorted(entries, key=place)


def release_directories(manifest: Manifest) -> List[Resource]:
    """Return the directories of the store and of this release, parents first."""
    directory = release_directory(manifest)
    names = [paths.OPT, paths.OPT + "/store", paths.STORE, paths.RELEASES, directory]
    return [Directory(name) for name in names + [directory + "/" + folder for folder in FOLDERS]]


def entry_resources(manifest: Manifest, entry: ArtifactEntry) -> List[Resource]:
    """Return one file of the bundle and the link that gives it its name."""
    return [entry.artifact(), entry_link(manifest, entry)]


def entry_link(manifest: Manifest, entry: ArtifactEntry) -> Link:
    """Return the link that gives a file of the bundle its name."""
    return Link(release_directory(manifest) + "/" + entry.name, paths.STORE + "/" + entry.sha256)


def current_link(manifest: Manifest) -> Link:
    """Return the link that says which release is in use."""
    return Link(paths.CURRENT, "releases/" + manifest.directory)


def release_directory(manifest: Manifest) -> str:
    """Return the directory of links: `/opt/freehold/releases/1.37.2-0123456789ab`."""
    return paths.RELEASES + "/" + manifest.directory


def digests_of(manifest: Manifest, *names: str) -> str:
    """Return one digest over the named entries, for a unit's inputs; missing ones count as missing."""
    known = {entry.name: entry.sha256 for entry in manifest.entries}
    return digest_of_inputs(*(name + "=" + known.get(name, "") for name in names))
