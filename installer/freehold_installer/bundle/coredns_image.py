"""The image of CoreDNS, for clusters that run it in pods: made from the program that every bundle has.

It is no part of the release lock: most clusters run CoreDNS as a unit and would carry it for nothing.
"""

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.bundle.archive import Settings, Tree, write_image
from freehold_installer.bundle.store import Store, Stored

ENTRY = "images/coredns.tar"
PROGRAM = "bin/coredns"
_RECIPE = 1
"""Raise it when the same program is to give another image."""


def stored_coredns_image(store: Store, bundle: Manifest) -> ArtifactEntry:
    """Have the image in the store and return its entry, for nodes. The same program gives the same bytes.

    Raises BundleError when the store cannot be written, KeyError for a bundle without CoreDNS.
    """
    program = bundle.entry(PROGRAM)
    reference = f"registry.freehold.invalid/coredns:{program.version or program.sha256[:12]}"
    key = f"image-coredns-{bundle.architecture}-{_RECIPE}-{program.sha256[:32]}"
    stored = _recorded(store, key)
    if stored is None:
        with store.scratch("image-coredns") as scratch:
            settings = Settings(reference, bundle.architecture, ("/coredns",), user="65532:65532")
            write_image(
                scratch / "image.tar", Tree({"/coredns": store.path(program.sha256)}), settings, scratch
            )
            stored = store.put_file(scratch / "image.tar")
        store.save_record(key, {"sha256": stored.sha256, "size": stored.size})
    return ArtifactEntry(
        ENTRY, stored.sha256, stored.size, ("node",), "image-coredns", program.version, reference
    )


def _recorded(store: Store, key: str) -> Stored | None:
    record = store.read_record(key) or {}
    try:
        stored = Stored(str(record["sha256"]), int(record["size"]))
    except (KeyError, TypeError, ValueError):
        return None
    return stored if store.has(stored.sha256, stored.size) else None
