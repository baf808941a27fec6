"""System users of our services."""

import grp
import pwd
from typing import List, Optional

from freehold_agent.caller import undisturbed
from freehold_agent.contract.resources import Attributes, User, key_of
from freehold_agent.errors import StepFailed
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.this_machine import ThisMachine


def observe_user(name: str) -> Optional[Attributes]:
    """Return the user's home; None when there is no such user."""
    try:
        return {"home": pwd.getpwnam(name).pw_dir}
    except KeyError:
        return None


def make_user(resource: User, machine: ThisMachine, present: bool) -> None:
    """Create the user with a group of its name, or correct its home. Raises StepFailed."""
    if present:
        command = ["usermod", "--home", resource.home, resource.name]
    else:
        command = ["useradd", "--system", "--no-create-home", "--home-dir", resource.home]
        command += ["--shell", "/usr/sbin/nologin", *_group(resource.name), resource.name]
    try:
        with undisturbed():
            machine.run(command, timeout=30)
    except ProgramFailed as error:
        raise StepFailed(key_of(resource), "user {}: {}".format(resource.name, error.output)) from error


def remove_user(name: str, machine: ThisMachine) -> None:
    """Remove the user and its group; one that is gone is no error. Raises StepFailed."""
    if observe_user(name) is None:
        return
    try:
        with undisturbed():
            machine.run(["userdel", name], timeout=30)
    except ProgramFailed as error:
        raise StepFailed("user:" + name, "user {}: {}".format(name, error.output)) from error


def _group(name: str) -> List[str]:
    try:
        grp.getgrnam(name)
    except KeyError:
        return ["--user-group"]
    return ["--gid", name]
