"""Components built from pinned Go modules with the toolchain of this machine.

The same inputs give the same bytes: paths trimmed, no build id, no version control stamp, and every
setting that reaches the compiler is given here instead of taken from the user's environment. Where modules
are fetched from (GOPROXY and friends) stays the user's affair; go.sum says what they must be.
"""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from freehold_installer.bundle.lock import Component, GoSource
from freehold_installer.bundle.sources import Task
from freehold_installer.bundle.store import hash_file
from freehold_installer.errors import BundleError, InputError

STRIP = ("-s", "-w", "-buildid=")
STATIC = ("-linkmode", "external", "-extldflags", "-static")
ATTEMPTS = 3
COMPILER_SETTINGS = {
    "GOFLAGS": "-mod=readonly -buildvcs=false",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "GOOS": "linux",
    "GOAMD64": "v1",
    "GOARM64": "v8.0",
    "GOFIPS140": "off",
    "GOTELEMETRY": "off",
    "LC_ALL": "C",
}
LEFT_OUT = (
    "GOEXPERIMENT", "GODEBUG", "GOCOVERDIR", "GOBIN",
    "CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS",
)  # fmt: skip
_NETWORK = re.compile(
    r"dial tcp|timeout|connection re(set|fused)|TLS handshake|: (unexpected )?EOF|50[0234] |429 |temporary f",
    re.IGNORECASE,
)


class GoModules:
    """The source kind `go`."""

    def inputs(self, name: str, component: Component, files: Path) -> Mapping[str, str]:
        directory = _directory(name, component, files)
        found = {"go": version()}
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                found[str(path.relative_to(directory))] = hash_file(path)[0]
        return found

    def check(self, component: Component, architecture: str) -> None:
        source = component.source
        assert isinstance(source, GoSource)  # noqa: S101  the kind decides
        if not source.cgo:
            return
        if architecture != _go_env("GOHOSTARCH"):
            raise InputError(
                f"{_words(component)} needs a C compiler for {architecture}, which is not this machine's",
                hint=f"run `freehold bundle build` on a machine of architecture {architecture}",
            )
        compiler = os.environ.get("CC", "gcc").split()[0]
        missing = [tool for tool in (compiler, "pkg-config") if not shutil.which(tool)]
        if compiler not in missing:
            archives = {"libc": "libc6-dev"} | {library: f"{library}-dev" for library in source.libraries}
            missing += [package for library, package in archives.items() if not _archive(compiler, library)]
        if missing:
            packages = ["gcc", "libc6-dev", "pkg-config", *(f"{library}-dev" for library in source.libraries)]
            raise InputError(
                f"building {_words(component)} needs {', '.join(missing)}",
                hint=f"sudo apt-get install -y {' '.join(packages)}",
            )

    def make(self, task: Task) -> Mapping[str, Path]:
        source = task.component.source
        assert isinstance(source, GoSource)  # noqa: S101  the kind decides
        outputs = task.scratch / "out"
        outputs.mkdir()
        environment = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
        environment |= COMPILER_SETTINGS
        environment |= {"GOARCH": task.architecture, "CGO_ENABLED": "1" if source.cgo else "0"}
        ldflags = [*STRIP, *source.ldflags]
        if source.cgo:
            ldflags += STATIC
        arguments = [_go(), "build", "-v", "-trimpath", "-ldflags", " ".join(ldflags)]
        if source.tags:
            arguments += ["-tags", ",".join(source.tags)]
        # Several outputs may be one program under several names.
        origins = dict.fromkeys(output.origin for output in task.component.outputs.values())
        arguments += ["-o", f"{outputs}/", *origins]
        self._build(task, arguments, environment)
        found = {name: outputs / _program(output.origin) for name, output in task.component.outputs.items()}
        for name, path in found.items():
            if not path.is_file():
                raise BundleError(f"{task.name}: the build did not yield {name}")
        return found

    def _build(self, task: Task, arguments: list[str], environment: Mapping[str, str]) -> None:
        compiled = 0
        fetched = 0

        def line(text: str) -> None:
            nonlocal compiled, fetched
            if text.startswith("go: downloading "):
                fetched += 1
                task.report(f"fetching modules ({fetched})")
            elif text and " " not in text and not text.startswith("#"):
                compiled += 1
                task.report(f"{compiled} packages compiled")

        directory = _directory(task.name, task.component, task.files)
        for attempt in range(1, ATTEMPTS + 1):
            status, said = task.run(arguments, directory, environment, line)
            if status == 0:
                return
            shown = [text for text in said if " " in text and not text.startswith("go: downloading ")]
            # What was fetched and compiled is kept by Go itself, so another attempt only does the rest.
            if attempt < ATTEMPTS and any(_NETWORK.search(text) for text in shown):
                task.report(f"the network failed, attempt {attempt + 1} of {ATTEMPTS}")
                continue
            tail = "\n  ".join(shown[-12:]) or f"exit status {status}"
            raise BundleError(
                f"building {task.name} {task.component.version} failed:\n  {tail}",
                hint="freehold bundle build continues where it stopped",
            )


@functools.cache
def version() -> str:
    """Return the toolchain's version, such as `go1.26.6`. Raises InputError when there is none."""
    return _go_env("GOVERSION")


def require(minimum: str) -> None:
    """Raise InputError unless the toolchain is at least that version."""
    found = version()
    if _numbers(found) < _numbers(minimum):
        raise InputError(
            f"Go {minimum} or newer is needed, {_go()} is {found.removeprefix('go')}",
            hint=_install_hint(minimum),
        )


def find() -> str | None:
    """Return the path of the `go` command, also where its own installer puts it."""
    return shutil.which("go") or shutil.which("/usr/local/go/bin/go")


def _go() -> str:
    path = find()
    if path is None:
        raise InputError("Go is needed to build the bundle and is not installed", hint=_install_hint(""))
    return path


def _install_hint(minimum: str) -> str:
    newer = f"Go {minimum} or newer" if minimum else "a current Go"
    return (
        f"install {newer}: unpack the Go project's linux tar with `sudo tar -C /usr/local -xzf go*.tar.gz` "
        "(distributions often have older ones)"
    )


@functools.cache
def _go_env(name: str) -> str:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    try:
        done = subprocess.run(
            [_go(), "env", name], env=environment, cwd="/", capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise InputError(f"`go env {name}` failed: {said.strip()}", hint=_install_hint("")) from error
    return done.stdout.strip()


def _archive(compiler: str, library: str) -> bool:
    """Tell whether the compiler finds the static archive; it answers with a bare name when it does not."""
    name = "libc.a" if library == "libc" else library + ".a"
    try:
        done = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return os.path.isabs(done.stdout.strip())


def _directory(name: str, component: Component, files: Path) -> Path:
    source = component.source
    assert isinstance(source, GoSource)  # noqa: S101  the kind decides
    return files / "go" / (source.directory or name)


def _program(package: str) -> str:
    """Return the file name that `go build -o DIRECTORY/` gives a main package: never its `v2`."""
    parts = package.split("/")
    return parts[-2] if len(parts) > 1 and re.fullmatch(r"v[2-9]|v[1-9]\d+", parts[-1]) else parts[-1]


def _words(component: Component) -> str:
    return ", ".join(sorted(name.rpartition("/")[2] for name in component.outputs))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
