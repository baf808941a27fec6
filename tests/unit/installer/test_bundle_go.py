"""The Go source, with a program in place of the real toolchain."""

import os
import threading
from pathlib import Path

import pytest

from freehold_installer.bundle.lock import Component
from freehold_installer.bundle.sources import CancelledBuild, Programs, Task, go
from freehold_installer.errors import BundleError, InputError

FAKE_GO = """#!/bin/sh
echo "$@" >> "{log}/calls"
env > "{log}/environment"
if [ "$1" = env ]; then
  case $2 in GOVERSION) echo go{version};; GOHOSTARCH) echo amd64;; esac
  exit 0
fi
if [ -f "{log}/fail" ]; then cat "{log}/fail" >&2; [ -f "{log}/always" ] || rm "{log}/fail"; exit 1; fi
while [ "$1" != -o ]; do shift; done
out=$2; shift 2
echo example.test/dependency >&2
for package in "$@"; do echo "$package" > "$out$(basename "${{package%/v3}}")"; done
"""


def a_component(**source: object) -> Component:
    return Component.model_validate(
        {
            "version": "v1.2.3",
            "source": {"kind": "go", **source},
            "outputs": {
                "bin/etcd": {"from": "example.test/etcd/server/v3", "roles": ["node"]},
                "bin/tool": {"from": "example.test/tool", "roles": ["node"]},
            },
        }
    )


class Toolchain:
    """A fake `go` first in PATH."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
        self.install("1.26.6")

    def install(self, version: str) -> None:
        go.version.cache_clear()
        go._go_env.cache_clear()
        program = self.directory / "go"
        program.write_text(FAKE_GO.format(log=self.directory, version=version))
        program.chmod(0o755)

    def task(self, component: Component, scratch: Path) -> Task:
        files = scratch / "release"
        (files / "go" / "thing").mkdir(parents=True)
        (files / "go" / "thing" / "go.mod").write_text("module x\n")
        return Task("thing", component, files, "amd64", scratch, self.words.append, Programs())

    @property
    def words(self) -> list[str]:
        self._words = getattr(self, "_words", [])
        return self._words

    @property
    def environment(self) -> dict[str, str]:
        lines = (self.directory / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def last_call(self) -> str:
        return (self.directory / "calls").read_text().splitlines()[-1]


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    directory = tmp_path / "toolchain"
    directory.mkdir()
    yield Toolchain(directory, monkeypatch)
    go.version.cache_clear()
    go._go_env.cache_clear()


def test_outputs_get_their_names(toolchain: Toolchain, tmp_path: Path) -> None:
    """A main package `.../server/v3` builds as `server`, whatever the output is called."""
    found = go.GoModules().make(toolchain.task(a_component(), tmp_path))
    assert found["bin/etcd"].read_text() == "example.test/etcd/server/v3\n"
    assert found["bin/tool"].name == "tool"
    assert toolchain.words == ["1 packages compiled"]


def test_one_program_under_several_names_is_built_once(toolchain: Toolchain, tmp_path: Path) -> None:
    """Outputs with the same main package are the same file, and the toolchain is told once."""
    outputs = {f"bin/{name}": {"from": "example.test/all", "roles": ["node"]} for name in ("one", "two")}
    component = Component.model_validate({"version": "v1", "source": {"kind": "go"}, "outputs": outputs})
    found = go.GoModules().make(toolchain.task(component, tmp_path))
    assert found["bin/one"] == found["bin/two"]
    assert toolchain.last_call.count("example.test/all") == 1


def test_the_users_settings_do_not_reach_the_compiler(
    toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOFLAGS and friends are ours; where modules come from stays theirs."""
    hostile = {
        "GOFLAGS": "-tags=evil",
        "GOAMD64": "v4",
        "CGO_CFLAGS": "-O0",
        "GOEXPERIMENT": "x",
        "GOOS": "plan9",
    }
    for name, value in {**hostile, "GOPROXY": "off", "CGO_ENABLED": "1"}.items():
        monkeypatch.setenv(name, value)
    go.GoModules().make(toolchain.task(a_component(), tmp_path))
    seen = toolchain.environment
    assert seen["GOFLAGS"] == "-mod=readonly -buildvcs=false"
    assert (seen["GOAMD64"], seen["GOOS"], seen["CGO_ENABLED"]) == ("v1", "linux", "0")
    assert "CGO_CFLAGS" not in seen
    assert "GOEXPERIMENT" not in seen
    assert seen["GOTOOLCHAIN"] == "local"
    assert seen["GOPROXY"] == "off"


def test_flags_of_a_static_component(toolchain: Toolchain, tmp_path: Path) -> None:
    """With a C compiler everything is still linked statically."""
    component = a_component(cgo=True, tags=["seccomp"], ldflags=["-X a.b=c"])
    go.GoModules().make(toolchain.task(component, tmp_path))
    call = toolchain.last_call
    assert (
        "-trimpath -ldflags -s -w -buildid= -X a.b=c -linkmode external -extldflags -static -tags seccomp"
        in call
    )
    assert toolchain.environment["CGO_ENABLED"] == "1"


def test_a_failed_network_is_tried_again(toolchain: Toolchain, tmp_path: Path) -> None:
    """What fails once with a network's words succeeds the second time."""
    (toolchain.directory / "fail").write_text("go: example.test/x@v1: dial tcp: i/o timeout\n")
    go.GoModules().make(toolchain.task(a_component(), tmp_path))
    assert "the network failed, attempt 2 of 3" in toolchain.words


def test_a_failed_build_shows_what_go_said(toolchain: Toolchain, tmp_path: Path) -> None:
    """Its last lines, without downloads and package names; not tried again."""
    (toolchain.directory / "always").touch()
    (toolchain.directory / "fail").write_text(
        "go: downloading x v1\nexample.test/p\nmain.go:3:1: syntax error\n"
    )
    with pytest.raises(BundleError) as caught:
        go.GoModules().make(toolchain.task(a_component(), tmp_path))
    assert caught.value.message == "building thing v1.2.3 failed:\n  main.go:3:1: syntax error"
    assert (toolchain.directory / "calls").read_text().count("build -v") == 1


def test_no_go_is_one_clear_error(toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about it."""
    monkeypatch.setattr(go, "find", lambda: None)
    with pytest.raises(InputError, match="not installed") as caught:
        go.require("1.26.6")
    assert "install" in caught.value.hint


@pytest.mark.parametrize(
    ("found", "fits"), [("1.26.6", True), ("1.27", True), ("1.26", False), ("1.9.9", False)]
)
def test_an_old_go_is_refused(toolchain: Toolchain, found: str, fits: bool) -> None:
    """By number, not by text."""
    toolchain.install(found)
    if fits:
        go.require("1.26.6")
    else:
        with pytest.raises(InputError, match=r"Go 1\.26\.6 or newer is needed"):
            go.require("1.26.6")


def test_missing_compiler_names_the_packages(toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command installs all that is needed."""
    monkeypatch.setenv("PATH", str(toolchain.directory))
    monkeypatch.delenv("CC", raising=False)
    component = a_component(cgo=True, libraries=["libseccomp"])
    with pytest.raises(InputError, match="building etcd, tool needs gcc, pkg-config") as caught:
        go.GoModules().check(component, "amd64")
    assert caught.value.hint == "sudo apt-get install -y gcc libc6-dev pkg-config libseccomp-dev"


def test_another_architecture_with_a_compiler_is_refused(toolchain: Toolchain) -> None:
    """Cross-compiling C is nothing we promise; without C it is fine."""
    with pytest.raises(InputError, match="needs a C compiler for arm64"):
        go.GoModules().check(a_component(cgo=True), "arm64")
    go.GoModules().check(a_component(), "arm64")


def test_inputs_see_every_file_and_the_toolchain(toolchain: Toolchain, tmp_path: Path) -> None:
    """A changed go.sum or source of ours is another build."""
    task = toolchain.task(a_component(), tmp_path)
    before = go.GoModules().inputs("thing", task.component, task.files)
    assert before["go"] == "go1.26.6"
    (task.files / "go" / "thing" / "go.sum").write_text("x")
    assert go.GoModules().inputs("thing", task.component, task.files) != before


def test_programs_can_be_ended(tmp_path: Path) -> None:
    """From another thread, and nothing new starts afterwards."""
    programs = Programs()
    timer = threading.Thread(target=lambda: (started.wait(30), programs.cancel()))
    started = threading.Event()
    timer.start()
    with pytest.raises(CancelledBuild):
        programs(["sh", "-c", "echo on; exec sleep 60"], tmp_path, os.environ, lambda _: started.set())
    timer.join()
    with pytest.raises(CancelledBuild):
        programs(["true"], tmp_path, os.environ, lambda _: None)
