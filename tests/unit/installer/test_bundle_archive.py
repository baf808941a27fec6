"""Images made without a container engine."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from freehold_installer.bundle.archive import Settings, Tree, write_image

SETTINGS = Settings("registry.freehold.invalid/tool:1", "amd64", ("/bin/tool",), ("-v",), "65534:65534")


def an_image(directory: Path) -> tuple[Path, dict[str, bytes]]:
    """Return the file and its members."""
    program = directory / "program"
    program.write_bytes(b"ELF")
    tree = Tree(
        files={"/bin/tool": program, "/etc/passwd": b"root\n"},
        directories={"/tmp": 0o1777},
        links={"/bin/other": "/bin/tool"},
    )
    target = directory / "image.tar"
    write_image(target, tree, SETTINGS, directory)
    with tarfile.open(target) as tar:
        return target, {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def blob(members: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    content = members["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
    assert len(content) == descriptor["size"]
    assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
    return content


def test_the_layout_is_whole(tmp_path: Path) -> None:
    """Index, manifest, configuration and layer refer to each other by digest and size."""
    _, members = an_image(tmp_path)
    assert json.loads(members["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (described,) = json.loads(members["index.json"])["manifests"]
    assert described["annotations"] == {
        "io.containerd.image.name": "registry.freehold.invalid/tool:1",
        "org.opencontainers.image.ref.name": "1",
    }
    manifest = json.loads(blob(members, described))
    config = json.loads(blob(members, manifest["config"]))
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert config["config"]["Cmd"] == ["-v"]
    assert config["config"]["User"] == "65534:65534"
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_the_layer_holds_the_tree(tmp_path: Path) -> None:
    """Programs can be started, parents exist before what is in them, links point."""
    _, members = an_image(tmp_path)
    manifest = json.loads(blob(members, json.loads(members["index.json"])["manifests"][0]))
    with tarfile.open(fileobj=io.BytesIO(blob(members, manifest["layers"][0]))) as tar:
        found = [(m.name, m.type, m.mode, m.linkname, m.uid, m.mtime) for m in tar.getmembers()]
    assert found == [
        ("bin", tarfile.DIRTYPE, 0o755, "", 0, 0),
        ("bin/other", tarfile.SYMTYPE, 0o777, "/bin/tool", 0, 0),
        ("bin/tool", tarfile.REGTYPE, 0o755, "", 0, 0),
        ("etc", tarfile.DIRTYPE, 0o755, "", 0, 0),
        ("etc/passwd", tarfile.REGTYPE, 0o644, "", 0, 0),
        ("tmp", tarfile.DIRTYPE, 0o1777, "", 0, 0),
    ]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of the machine or the moment gets in."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (an_image(tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second
