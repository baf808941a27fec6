"""A machine to converge on: real files below a directory, and a systemd that only remembers."""

import grp
import os
import pwd
from dataclasses import dataclass, field
from typing import Any, Dict, List

from freehold_agent.contract.resources import (
    Directory,
    File,
    Unit,
)
from freehold_agent.converge import converge
from freehold_agent.machine.systemd import Systemd
from freehold_agent.this_machine import ThisMachine

ME = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name


@dataclass
class PretendedSystemd(Systemd):
    """Reads unit files like systemd does: only at a reload; runs processes that have an environ."""

    root: str
    calls: List[str] = field(default_factory=list)
    loaded: Dict[str, str] = field(default_factory=dict)
    running: Dict[str, str] = field(default_factory=dict)
    refuse: set = field(default_factory=set)

    def unit_file(self, name):
        try:
            with open(os.path.join(self.root, "units", name)) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def show(self, names, properties=()):
        result = {}
        for name in names:
            text = self.unit_file(name)
            pid = str(1000 + sorted(self.running).index(name)) if name in self.running else "0"
            if pid != "0":
                os.makedirs(os.path.join(self.root, "proc", pid), exist_ok=True)
                with open(os.path.join(self.root, "proc", pid, "environ"), "w") as stream:
                    stream.write("A=b\0" + self.running[name] + "\0")
            result[name] = {
                "LoadState": "loaded" if text is not None else "not-found",
                "ActiveState": "active" if name in self.running else "inactive",
                "UnitFileState": "stale",
                "NeedDaemonReload": "yes" if self.loaded.get(name, text) != text else "no",
                "MainPID": pid,
            }
        return result

    def daemon_reload(self):
        self.calls.append("daemon-reload")
        for name in os.listdir(os.path.join(self.root, "units")):
            if name.endswith((".service", ".slice")):
                self.loaded[name] = self.unit_file(name) or ""

    def enable(self, names):
        if names:
            self.calls.append("enable " + " ".join(names))
            os.makedirs(self.wants, exist_ok=True)
            for name in names:
                if not os.path.lexists(os.path.join(self.wants, name)):
                    os.symlink("../" + name, os.path.join(self.wants, name))

    def disable(self, names):
        for name in set(names) & self.enabled:
            os.unlink(os.path.join(self.wants, name))

    @property
    def wants(self):
        return os.path.join(self.root, "units", "multi-user.target.wants")

    @property
    def enabled(self):
        """The units with a link, as on a real disk."""
        return set(os.listdir(self.wants)) if os.path.isdir(self.wants) else set()

    def restart(self, *names, timeout=90.0):
        self.calls.append("restart " + " ".join(names))
        for name in names:
            if name not in self.refuse:
                text = self.loaded.setdefault(name, self.unit_file(name) or "")
                self.running[name] = text.partition("Environment=")[2].strip()

    def stop(self, *names, timeout=90.0):
        self.calls.append("stop " + " ".join(names))
        for name in names:
            self.running.pop(name, None)

    def reset_failed(self, *names):
        pass

    def journal(self, name, lines=15):
        return "it said why"


def a_machine_below(tmp_path):
    """Return a machine whose every path is below a directory; its systemd is pretended."""
    for name in ("units", "store", "proc", "sys", "state"):
        (tmp_path / name).mkdir()
    return ThisMachine(
        systemd=PretendedSystemd(str(tmp_path)),
        units=str(tmp_path / "units"),
        store=str(tmp_path / "store"),
        hashes=str(tmp_path / "state" / "hashes.json"),
        records=str(tmp_path / "state" / "records"),
        proc=str(tmp_path / "proc"),
        sys=str(tmp_path / "sys"),
        lock=str(tmp_path),
    )


def a_file(path, content=b"text\n", mode=0o644, **more):
    return File(str(path), content, mode, ME, GROUP, **more)


def a_directory(path, mode=0o755, **more):
    return Directory(str(path), mode, ME, GROUP, **more)


def a_unit(tmp_path, name, inputs):
    """The file of a unit and the unit itself, as every part of a node has them."""
    text = "[Service]\nEnvironment=FREEHOLD_INPUTS={}\n".format(inputs).encode()
    return [a_file(tmp_path / "units" / name, text), Unit(name, inputs)]


def run(machine, resources, owner="node", deliver=None, only=None):
    """Converge and return (summary, events)."""
    events: List[Dict[str, Any]] = []
    summary = converge(resources, owner, deliver or no_artifact, events.append, only, machine=machine)
    return summary, events


def no_artifact(artifact):
    raise AssertionError("nothing was to be delivered")


def everything_under(path):
    """Name, inode and times of all that exists, to prove that nothing was written."""
    found = {}
    for directory, names, more in os.walk(path):
        for name in [*names, *more]:
            state = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
    return found
