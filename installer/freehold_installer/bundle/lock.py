"""The lock of a release: which versions it consists of, how each is made and who needs what comes out.

It describes inputs only; what a build made of them is in the bundle's manifest. It must not know how a source
produces its outputs, nor where they are stored.
"""

import importlib.resources
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from freehold_installer.errors import InputError

Role = Literal["control-plane", "node", "operator", "test"]
OutputName = Annotated[str, StringConstraints(pattern=r"^(bin|cni|test|parts)/[a-z0-9][a-z0-9.-]*$")]
ComponentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\s]*$")]

PARTS = "parts/"
"""Outputs below this name go into images only and never onto a machine by themselves."""
ARCHITECTURES = ("amd64", "arm64")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GoSource(_Frozen):
    """Built with the local Go toolchain from `go/DIRECTORY` beside the lock; its go.sum is the proof."""

    kind: Literal["go"]
    directory: str = ""
    """Below the release's `go/`; default: the component's name."""
    cgo: bool = False
    """Needs a C compiler. Such outputs are linked statically, so that they run on any distribution."""
    libraries: tuple[str, ...] = ()
    """C libraries (pkg-config names) whose static archive the link needs."""
    tags: tuple[str, ...] = ()
    ldflags: tuple[str, ...] = ()
    """Beside those every component gets (strip, no build id)."""


class DebianSource(_Frozen):
    """A file of a Debian package: this machine's if installed, else through `apt-get download`."""

    kind: Literal["debian"]
    package: str


class Output(_Frozen):
    """One file that a component yields."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    origin: str = Field(alias="from")
    """Where the source finds it: a Go main package, a path inside a Debian package."""
    roles: tuple[Role, ...] = ()


class Component(_Frozen):
    """One upstream project at one version."""

    version: str
    source: Annotated[GoSource | DebianSource, Field(discriminator="kind")]
    outputs: dict[OutputName, Output]
    seconds: float = 5.0
    """Rough time of a cold build on two cores; only orders the builds and weighs the progress bar."""


class ImageFile(_Frozen):
    """Where a file inside an image comes from: an output of a component, or the text itself."""

    output: OutputName | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "ImageFile":
        if (self.output is None) == (self.text is None):
            raise ValueError("give either `output` or `text`")
        return self


class Image(_Frozen):
    """A container image of one layer, made without a container engine."""

    reference: str
    version: str
    roles: tuple[Role, ...]
    files: dict[AbsolutePath, ImageFile]
    directories: dict[AbsolutePath, Annotated[str, StringConstraints(pattern=r"^[0-7]{4}$")]] = {}
    """Path to its octal mode; parents of files need not be listed."""
    links: dict[AbsolutePath, tuple[AbsolutePath, ...]] = {}
    """Target to the paths of the symbolic links that point to it."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""


class Lock(_Frozen):
    """All inputs of one release."""

    version: Literal[1]
    release: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    go: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+(\.\d+)?$")]
    """Oldest Go that can build it."""
    components: dict[ComponentName, Component]
    images: dict[ComponentName, Image] = {}
    directory: Path = Field(default=Path(), exclude=True)
    """Where the lock was read from; the sources' own files are below it."""

    @model_validator(mode="after")
    def _consistent(self) -> "Lock":
        seen: set[str] = set()
        for component in self.components.values():
            for name, output in component.outputs.items():
                if name in seen:
                    raise ValueError(f"two components yield `{name}`")
                seen.add(name)
                if name.startswith(PARTS) == bool(output.roles):
                    raise ValueError(f"`{name}`: all but `{PARTS}...` need roles, and those have none")
        if both := self.components.keys() & {f"image-{name}" for name in self.images}:
            raise ValueError(f"`{min(both)}` names a component and an image")
        for name, image in self.images.items():
            for path, file in image.files.items():
                if file.output is not None and file.output not in seen:
                    raise ValueError(f"image `{name}`: no component yields `{file.output}` for {path}")
        return self


def releases_directory() -> Path:
    """Return where the locks are: in the checkout this package runs from, else in the installed package."""
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file() and (checkout / "releases").is_dir():
        return checkout / "releases"
    return Path(str(importlib.resources.files("freehold_installer"))) / "releases"


def releases(directory: Path | None = None) -> list[str]:
    """Return the releases there is a lock for, oldest first."""
    found = [path.parent.name for path in (directory or releases_directory()).glob("*/lock.yaml")]
    return sorted(found, key=_version_order)


def newest(directory: Path | None = None) -> str:
    """Return the newest release. Raises InputError when there is none."""
    known = releases(directory)
    if not known:
        raise InputError(f"no release in {directory or releases_directory()}: the installation is incomplete")
    return known[-1]


def load(release: str, directory: Path | None = None) -> Lock:
    """Return the lock of a release such as `1.37.2`. Raises InputError for an unknown or a broken one."""
    root = directory or releases_directory()
    path = root / release / "lock.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        known = ", ".join(releases(root)) or "none"
        raise InputError(f"no release `{release}`; known: {known}", hint="freehold bundle list") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data: Any = yaml.load(text, Loader=loader)  # noqa: S506  both loaders are safe ones
        lock = Lock.model_validate({**data, "directory": path.parent})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}".replace(": : ", ": ")) from error
    except (yaml.YAMLError, TypeError) as error:
        raise InputError(f"{path}: not a lock: {error}") from error
    if lock.release != release:
        raise InputError(f"{path}: is the lock of {lock.release}, not of {release}")
    return lock


def _version_order(release: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", release)]
