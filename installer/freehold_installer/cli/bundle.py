"""`freehold bundle build|verify|list`: the release bundle on the operator's machine."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from freehold_agent.contract.artifacts import Manifest

app = typer.Typer(
    help="Build, verify and list release bundles: all that a cluster consists of.", no_args_is_help=True
)

ReleaseOption = Annotated[str, typer.Option(help="Kubernetes version; default: the newest that is known.")]
ArchOption = Annotated[str, typer.Option("--arch", help="amd64 or arm64; default: this machine's.")]
OutputOption = Annotated[Literal["text", "json"], typer.Option(help="What is printed on standard output.")]
TestsOption = Annotated[bool, typer.Option("--tests/--without-tests", help="Also what freehold's tests use.")]


@app.command()
def build(
    release: ReleaseOption = "",
    arch: ArchOption = "",
    output: OutputOption = "text",
    tests: Annotated[
        bool, typer.Option("--tests/--without-tests", help="Also what freehold's tests use.")
    ] = True,
) -> None:
    """Make the bundle of a release; what is there already is not made again."""
    from freehold_installer.bundle import lock
    from freehold_installer.bundle.build import build as build_bundle
    from freehold_installer.bundle.build import expected_seconds
    from freehold_installer.bundle.progress import Progress
    from freehold_installer.bundle.store import Store

    release = release or lock.newest()
    began = time.monotonic()
    store = Store()
    with Progress(expected_seconds(lock.load(release))) as progress:
        manifest = build_bundle(release, arch, progress, store=store, tests=tests)
    seconds = time.monotonic() - began
    if output == "json":
        typer.echo(json.dumps({**manifest.to_json(), "seconds": round(seconds, 3), "made": progress.made}))
        return
    made = f"{len(progress.made)} made" if progress.made else "nothing to do"
    typer.echo(f"bundle {manifest.directory} ({_size(manifest)}) in {store.root}: {made}, {seconds:.1f} s")


@app.command()
def verify(release: ReleaseOption = "", arch: ArchOption = "", output: OutputOption = "text") -> None:
    """Read every file of a bundle again and compare its digest; damaged files are removed."""
    from freehold_installer.bundle import lock
    from freehold_installer.bundle.build import local_architecture
    from freehold_installer.bundle.store import Store
    from freehold_installer.errors import BundleError

    release, arch = release or lock.newest(), arch or local_architecture()
    store = Store()
    hint = f"freehold bundle build --release {release} --arch {arch}"
    manifest = store.read_manifest(release, arch)
    if manifest is None:
        raise BundleError(f"no bundle of {release} for {arch} in {store.root}", hint=hint)
    damage = store.verify(manifest)
    if output == "json":
        found = [{"name": item.name, "what": item.what} for item in damage]
        typer.echo(json.dumps({"release": release, "architecture": arch, "bad": found}))
    elif not damage:
        typer.echo(f"bundle {manifest.directory}: {len(manifest.entries)} files, all as they should be")
    if damage:
        lines = "".join(f"\n  {item.name}: {item.what}" for item in damage)
        raise BundleError(f"bundle {manifest.directory}: {len(damage)} bad files{lines}", hint=hint)


@app.command("list")
def list_bundles(output: OutputOption = "text") -> None:
    """List the known releases and the bundles that were built here."""
    from freehold_installer.bundle import lock
    from freehold_installer.bundle.store import Store
    from freehold_installer.errors import BundleError

    store = Store()
    rows: list[dict[str, object]] = []
    built = store.bundles()
    for release in [*lock.releases(), *sorted({r for r, _ in built} - set(lock.releases()))]:
        architectures = [arch for other, arch in built if other == release]
        for arch in architectures or [""]:
            row: dict[str, object] = {"release": release, "architecture": arch, "state": "not built"}
            if arch:
                try:
                    manifest = store.load_manifest(release, arch)
                    size = sum(entry.size for entry in manifest.entries)
                    row |= {"state": "built", "directory": manifest.directory, "bytes": size}
                except BundleError as error:
                    row |= {"state": "incomplete", "why": error.message}
            rows.append(row)
    if output == "json":
        typer.echo(json.dumps({"store": str(store.root), "bundles": rows}))
        return
    typer.echo(f"{'RELEASE':10} {'ARCH':6} {'STATE':11} {'SIZE':>9}  NAME")
    for row in rows:
        size_text = f"{int(str(row['bytes'])) / 2**20:.0f} MiB" if "bytes" in row else "-"
        name = row.get("directory") or row.get("why") or ""
        typer.echo(
            f"{row['release']:10} {row['architecture'] or '-':6} {row['state']:11} {size_text:>9}  {name}"
        )


def _size(manifest: "Manifest") -> str:
    # One file may have several names.
    sizes = {entry.sha256: entry.size for entry in manifest.entries}
    return f"{len(sizes)} files, {sum(sizes.values()) / 2**20:.0f} MiB"
