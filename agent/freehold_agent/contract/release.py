"""A release on a machine: files of the bundle in the store, a directory of links to them, and `current`.

Pure. The same function serves control planes and nodes, so that both link one release directory the same way.
"""

from typing import List, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.resources import Directory, Link, Resource, digest_of_inputs

AGENT_ENTRY = "freehold-agent.pyz"
"""Manifest entry of the agent's zipapp; entries without a folder are linked in /opt/freehold itself."""
SERVICES_ENTRY = "freehold-services.pyz"
FOLDERS = ("bin", "cni", "images")


def release_resources(manifest: Manifest, roles: Tuple[str, ...]) -> List[Resource]:
    """Return directories, artifacts with their links in the manifest's order, and the link `current` last."""
    resources = release_directories(manifest)
    for entry in manifest.for_roles(*roles):
        resources += entry_resources(manifest, entry)
    return [*resources, current_link(manifest)]


def release_directories(manifest: Manifest) -> List[Resource]:
    """Return the directories of the store and of this release, parents first."""
    directory = release_directory(manifest)
    names = [paths.OPT, paths.OPT + "/store", paths.STORE, paths.RELEASES, directory]
    return [Directory(name) for name in names + [directory + "/" + folder for folder in FOLDERS]]


def entry_resources(manifest: Manifest, entry: ArtifactEntry) -> List[Resource]:
    """Return one file of the bundle and the link that gives it its name."""
    parent = release_directory(manifest) if "/" in entry.name else paths.OPT
    return [entry.artifact(), Link(parent + "/" + entry.name, paths.STORE + "/" + entry.sha256)]


def current_link(manifest: Manifest) -> Link:
    """Return the link that says which release is in use."""
    return Link(paths.CURRENT, release_directory(manifest))


def release_directory(manifest: Manifest) -> str:
    """Return the directory of links: `/opt/freehold/releases/1.37.2-0123456789ab`."""
    return paths.RELEASES + "/" + manifest.directory


def digests_of(manifest: Manifest, *names: str) -> str:
    """Return one digest over the named entries, for a unit's inputs; missing ones count as missing."""
    known = {entry.name: entry.sha256 for entry in manifest.entries}
    return digest_of_inputs(*(name + "=" + known.get(name, "") for name in names))
