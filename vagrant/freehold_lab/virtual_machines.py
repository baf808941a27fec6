"""The lab's machines as real virtual machines (libvirt or VirtualBox), wholly through Vagrant."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence

from . import places, vagrant_tool
from .errors import LabError
from .shape import Lab


class VirtualMachines:
    """Machines of one lab made by Vagrant's libvirt or virtualbox provider."""

    needs_root = False

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def up(self, names: Sequence[str]) -> None:
        """Have running machines called `names`."""
        if not os.path.exists(places.key()):
            os.makedirs(os.path.dirname(places.key()), mode=0o700, exist_ok=True)
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "freehold-lab", "-f", places.key()]
            subprocess.run(keygen, check=True)
        vagrant_tool.up(self.lab, names)

    def host_key(self, name: str) -> str:
        """Return a machine's SSH host key as `TYPE BASE64`, read over Vagrant's own connection."""
        shown = vagrant_tool.run(
            self.lab, "ssh", name, "--command", "cat /etc/ssh/ssh_host_ed25519_key.pub", quiet=True
        )
        fields = shown.split()
        if len(fields) < 2:
            raise LabError(f"{name} shows no SSH host key")
        return " ".join(fields[:2])

    def status(self, name: str) -> str:
        """Return Vagrant's word for the machine's state."""
        for line in vagrant_tool.run(self.lab, "status", name, "--machine-readable", quiet=True).splitlines():
            fields = line.split(",")
            if len(fields) > 3 and fields[2] == "state":
                return fields[3]
        return "unknown"

    def stop(self, names: Iterable[str]) -> None:
        """Shut machines down in order."""
        vagrant_tool.run(self.lab, "halt", *names)

    def start(self, names: Iterable[str]) -> None:
        """Start machines that are off."""
        vagrant_tool.up(self.lab, names)

    def reboot(self, names: Sequence[str]) -> None:
        """Shut down and start again."""
        vagrant_tool.run(self.lab, "reload", *names)

    def power_cut(self, names: Iterable[str]) -> None:
        """Switch the machines off at once; they stay off."""
        vagrant_tool.run(self.lab, "halt", "--force", *names)

    def fresh(self, names: Sequence[str]) -> None:
        """Make machines anew from the box."""
        vagrant_tool.run(self.lab, "destroy", "--force", *names)
        vagrant_tool.up(self.lab, names)

    def destroy(self) -> None:
        """Remove every machine of this lab's shape."""
        vagrant_tool.run(self.lab, "destroy", "--force")

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs `arguments` as root in a machine, over Vagrant's connection."""
        import shlex

        return ["vagrant", "ssh", self.lab.machine(name).name, "--command", "sudo " + shlex.join(arguments)]
