"""A file of a Debian package, for test images only: from this machine when installed, else fetched by apt.

apt checks the package against its signed index. Nothing is installed, and no root rights are needed.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from freehold_installer.bundle.lock import Component, DebianSource
from freehold_installer.bundle.sources import Task
from freehold_installer.errors import BundleError, InputError


class DebianPackage:
    """The source kind `debian`."""

    def inputs(self, name: str, component: Component, files: Path) -> Mapping[str, str]:  # noqa: ARG002
        return {}

    def check(self, component: Component, architecture: str) -> None:  # noqa: ARG002
        source = component.source
        assert isinstance(source, DebianSource)  # noqa: S101  the kind decides
        if self._installed(component, source) or (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            return
        raise InputError(
            f"the test images need the Debian package {source.package}, and there is no apt-get here",
            hint="freehold bundle build --without-tests",
        )

    def make(self, task: Task) -> Mapping[str, Path]:
        source = task.component.source
        assert isinstance(source, DebianSource)  # noqa: S101  the kind decides
        root = Path("/")
        if not (task.architecture == _dpkg_architecture() and self._installed(task.component, source)):
            root = self._fetched(task, source)
        found = {}
        for name, output in task.component.outputs.items():
            origin = root / output.origin.lstrip("/")
            if not origin.is_file():
                raise BundleError(f"{task.name}: {source.package} has no {output.origin}")
            found[name] = Path(shutil.copyfile(origin, task.scratch / name.replace("/", "-")))
        return found

    def _fetched(self, task: Task, source: DebianSource) -> Path:
        environment = {**os.environ, "LC_ALL": "C"}
        package = f"{source.package}:{task.architecture}"
        task.report(f"apt-get download {package}")
        status, said = task.run(["apt-get", "download", package], task.scratch, environment, lambda _: None)
        archives = sorted(task.scratch.glob("*.deb"))
        if status != 0 or not archives:
            tail = "\n  ".join(said[-5:])
            raise BundleError(
                f"{task.name}: `apt-get download {package}` failed:\n  {tail}",
                hint="sudo apt-get update, or freehold bundle build --without-tests",
            )
        root = task.scratch / "root"
        status, said = task.run(
            ["dpkg-deb", "-x", str(archives[0]), str(root)], task.scratch, environment, lambda _: None
        )
        if status != 0:
            raise BundleError(f"{task.name}: {archives[0].name} cannot be unpacked: {' '.join(said[-3:])}")
        return root

    def _installed(self, component: Component, source: DebianSource) -> bool:
        if not shutil.which("dpkg-query") or not all(
            os.path.isfile(o.origin) for o in component.outputs.values()
        ):
            return False
        # The plain `busybox` has the same path and needs a C library that is not in the image.
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Status}", source.package],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.strip() == "installed"


def _dpkg_architecture() -> str:
    try:
        return subprocess.run(
            ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
