"""Builds a release's bundle: makes what is not there yet, takes it into the store and writes the manifest.

What was made is recorded under a digest of everything that decides it, so a second build of the same lock
only reads records. Several builds may run at once: each component has a lock, and who waited finds it made.
It must not know how a kind of source works.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.bundle import lock as locks
from freehold_installer.bundle.lock import ARCHITECTURES, PARTS, Component, Image, Lock
from freehold_installer.bundle.sources import CancelledBuild, Programs, Source, Task, go
from freehold_installer.bundle.sources.debian import DebianPackage
from freehold_installer.bundle.sources.go import GoModules
from freehold_installer.bundle.store import Store, Stored
from freehold_installer.errors import InputError

RECIPE = 1
"""Part of every key: raise it when the same inputs are to give other outputs."""
SOURCES: Mapping[str, Source] = {"go": GoModules(), "debian": DebianPackage()}

Progress = Callable[[str, str, str], None]
"""Component, state (`cached`, `waiting`, `building`, `done`, `failed`), a few words. From any thread."""
Outputs = Mapping[str, Stored]


def build(
    release: str,
    architecture: str = "",
    progress: Progress | None = None,
    *,
    store: Store | None = None,
    releases: Path | None = None,
    tests: bool = True,
) -> Manifest:
    """Make the bundle of a release for `amd64` or `arm64` (default: this machine's) and return its manifest.

    Without `tests` what only freehold's own tests need is left out. Raises InputError when this machine lacks
    something, BundleError when a component cannot be made or the disk is full.
    """
    lock = locks.load(release, releases)
    return _Build(
        lock, architecture or local_architecture(), store or Store(), progress or (lambda *_: None), tests
    ).run()


def local_architecture() -> str:
    """Return this machine's architecture by Go's name. Raises InputError for one without a release."""
    machine = platform.machine()
    name = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    return _known_architecture(name)


def expected_seconds(lock: Lock) -> dict[str, float]:
    """Return the rough time of a cold build of each step, for progress bars."""
    return {
        **{name: component.seconds for name, component in lock.components.items()},
        **{f"image-{name}": 1.0 for name in lock.images},
    }


def jobs() -> int:
    """Return how many components are made at once. Raises InputError for a bad $FREEHOLD_BUILD_JOBS."""
    given = os.environ.get("FREEHOLD_BUILD_JOBS", "2")
    if not given.isdigit() or int(given) < 1:
        raise InputError(f"FREEHOLD_BUILD_JOBS is `{given}`, not a number from 1")
    return int(given)


class _Build:
    """One run. A step is a component or an image; images come last, they consist of outputs."""

    def __init__(self, lock: Lock, architecture: str, store: Store, progress: Progress, tests: bool) -> None:
        self.lock = lock
        self.architecture = _known_architecture(architecture)
        self.store = store
        self.progress = progress
        self.images = {n: i for n, i in lock.images.items() if tests or set(i.roles) != {"test"}}
        self.components = _needed(lock, self.images, tests)
        self.programs = Programs()
        self.made: dict[str, Stored] = {}

    def run(self) -> Manifest:
        if any(component.source.kind == "go" for component in self.components.values()):
            go.require(self.lock.go)
        keys = {name: self._component_key(name, part) for name, part in self.components.items()}
        missing = []
        for name, key in keys.items():
            if (outputs := self._recorded(name, key)) is not None:
                self.made.update(outputs)
                self.progress(name, "cached", "")
            else:
                missing.append(name)
        for name in missing:
            component = self.components[name]
            SOURCES[component.source.kind].check(component, self.architecture)
        # Longest first: with two at once the short ones fill the gap.
        missing.sort(key=lambda name: -self.components[name].seconds)
        self._all((name, keys[name], self._make_component) for name in missing)
        self._all(
            (f"image-{name}", self._image_key(image), self._make_image) for name, image in self.images.items()
        )
        manifest = self._manifest()
        self.store.save_manifest(manifest)
        return manifest

    def _all(self, steps: Iterable[tuple[str, str, Callable[[str, Path], Mapping[str, Path]]]]) -> None:
        """Do all steps, some at once; the first failure or Ctrl-C ends the others."""
        waiting = list(steps)
        if not waiting:
            return
        with ThreadPoolExecutor(max_workers=min(jobs(), len(waiting)), thread_name_prefix="build") as pool:
            futures: dict[Future[Outputs], str] = {
                pool.submit(self._step, name, key, make): name for name, key, make in waiting
            }
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(
                    future.done() and future.exception() is None
                    for future in futures
                    if not future.cancelled()
                ):
                    self.programs.cancel()
                    pool.shutdown(wait=False, cancel_futures=True)
        failures = [f.exception() for f in futures if not f.cancelled() and f.exception() is not None]
        for failure in sorted(failures, key=lambda error: isinstance(error, CancelledBuild)):
            if failure is not None:
                raise failure
        for future in futures:
            self.made.update(future.result())

    def _step(self, name: str, key: str, make: Callable[[str, Path], Mapping[str, Path]]) -> Outputs:
        try:
            with self._alone(name):
                if (outputs := self._recorded(name, key)) is not None:
                    self.progress(name, "cached", "")
                    return outputs
                self.progress(name, "building", "")
                scratch_name = f"{self.lock.release}-{self.architecture}-{name}"
                self.store.sweep(scratch_name)
                with self.store.scratch(scratch_name) as scratch:
                    found = make(name, scratch)
                    # One file may have several names; it is moved into the store once.
                    stored = {path: self.store.put_file(path) for path in dict.fromkeys(found.values())}
                    outputs = {output: stored[path] for output, path in found.items()}
                self._record(name, key, outputs)
                self.progress(name, "done", "")
                return outputs
        except CancelledBuild:
            raise
        except BaseException:
            self.progress(name, "failed", "")
            raise

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold the step's lock; another build that has it is waited for."""
        held = FileLock(self.store.lock_path(f"{self.lock.release}-{self.architecture}-{name}"))
        told = False
        while not self.programs.cancelled.is_set():
            try:
                held.acquire(timeout=0.5 if told else 0)
                break
            except Timeout:
                if not told:
                    self.progress(name, "waiting", "another build is making it")
                told = True
        else:
            raise CancelledBuild
        try:
            yield
        finally:
            held.release()

    # --- the two kinds of steps ---------------------------------------------------------------------------

    def _make_component(self, name: str, scratch: Path) -> Mapping[str, Path]:
        component = self.components[name]
        task = Task(
            name=name,
            component=component,
            files=self.lock.directory,
            architecture=self.architecture,
            scratch=scratch,
            report=lambda words: self.progress(name, "building", words),
            run=self.programs,
        )
        return SOURCES[component.source.kind].make(task)

    def _make_image(self, name: str, scratch: Path) -> Mapping[str, Path]:
        from freehold_installer.bundle.archive import Settings, Tree, write_image

        image = self.images[name.removeprefix("image-")]
        files: dict[str, Path | bytes] = {
            path: (file.text or "").encode()
            if file.output is None
            else self.store.path(self.made[file.output].sha256)
            for path, file in image.files.items()
        }
        tree = Tree(
            files=files,
            directories={path: int(mode, 8) for path, mode in image.directories.items()},
            links={path: target for target, paths in image.links.items() for path in paths},
        )
        settings = Settings(image.reference, self.architecture, image.entrypoint, image.command, image.user)
        target = scratch / "image.tar"
        write_image(target, tree, settings, scratch)
        return {_image_output(name.removeprefix("image-")): target}

    # --- keys and records ---------------------------------------------------------------------------------

    def _component_key(self, name: str, component: Component) -> str:
        # Roles and expected times say what happens with the outputs, not what they are.
        described = component.model_dump(mode="json", exclude={"seconds"})
        described["outputs"] = {output: part["origin"] for output, part in described["outputs"].items()}
        inputs = SOURCES[component.source.kind].inputs(name, component, self.lock.directory)
        return _digest(
            {"recipe": RECIPE, "arch": self.architecture, "component": described, "inputs": dict(inputs)}
        )

    def _image_key(self, image: Image) -> str:
        used = sorted(file.output for file in image.files.values() if file.output is not None)
        parts = {name: self.made[name].sha256 for name in used}
        described = image.model_dump(mode="json", exclude={"roles"})
        return self._key({"image": described, "parts": parts})

    def _key(self, decisive: Mapping[str, Any]) -> str:
        return _digest({"recipe": RECIPE, "arch": self.architecture, **decisive})

    def _recorded(self, name: str, key: str) -> Outputs | None:
        record = self.store.read_record(f"{name}-{key[:32]}")
        if record is None or record.get("key") != key:
            return None
        try:
            outputs = {output: Stored(**found) for output, found in record["outputs"].items()}
        except (KeyError, TypeError, AttributeError):
            return None
        return outputs if all(self.store.has(file.sha256, file.size) for file in outputs.values()) else None

    def _record(self, name: str, key: str, outputs: Outputs) -> None:
        described = {output: {"sha256": file.sha256, "size": file.size} for output, file in outputs.items()}
        self.store.save_record(f"{name}-{key[:32]}", {"key": key, "outputs": described})

    def _manifest(self) -> Manifest:
        entries = []
        for name, component in self.components.items():
            for output, part in component.outputs.items():
                if not output.startswith(PARTS):
                    entries.append(self._entry(output, part.roles, name, component.version, ""))
        for name, image in self.images.items():
            entries.append(
                self._entry(_image_output(name), image.roles, name, image.version, image.reference)
            )
        entries.sort(key=lambda entry: entry.name)
        manifest = Manifest(self.lock.release, self.architecture, tuple(entries))
        return Manifest(
            manifest.release, manifest.architecture, manifest.entries, _digest(manifest.to_json())
        )

    def _entry(
        self, name: str, roles: tuple[str, ...], component: str, version: str, image: str
    ) -> ArtifactEntry:
        file = self.made[name]
        return ArtifactEntry(name, file.sha256, file.size, tuple(roles), component, version, image)


def _needed(lock: Lock, images: Mapping[str, Image], tests: bool) -> dict[str, Component]:
    """Return the components of which anything is wanted."""
    in_images = {file.output for image in images.values() for file in image.files.values()}
    return {
        name: component
        for name, component in lock.components.items()
        if any(
            output in in_images or (set(part.roles) - ({"test"} if not tests else set()))
            for output, part in component.outputs.items()
        )
    }


def _image_output(name: str) -> str:
    return f"images/{name}.tar"


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise InputError(f"no release is built for `{name}`; known: {', '.join(ARCHITECTURES)}")
    return name


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
