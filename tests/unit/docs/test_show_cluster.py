"""The end of `make cluster`: which pods are said to have answered, and the times."""

import sys
from pathlib import Path

import pytest
from tests.support.repository import CHECKOUT

from freehold_installer.bundle.store import Store
from freehold_installer.config import load

sys.path.append(str(CHECKOUT / "vagrant"))
from freehold_lab import show


class AScriptedCluster(show.Show):
    """A kubectl that knows these pods, each of which hears the given answers."""

    pods: tuple[str, ...] = ("a cp1", "b w1")
    answers_to: dict[str, tuple[str, ...]]

    def kubectl(self, *arguments: str) -> str:
        if arguments[0] == "get":
            return "".join(f"{pod}\n" for pod in self.pods)
        return "".join(f"hostname: {name}\nmethod: GET\n" for name in self.answers_to[arguments[1]])


def a_show(tmp_path: Path, **answers: tuple[str, ...]) -> AScriptedCluster:
    found = AScriptedCluster(load(CHECKOUT / "inventories" / "lab.yaml"), tmp_path, Store(tmp_path))
    found.answers_to = answers
    return found


def test_the_answer_of_another_machine_is_shown(tmp_path):
    """Of many answers, the first that came from another machine's pod is told."""
    view = a_show(tmp_path, a=("a", "a", "b"), b=("a",))
    assert list(view.answers()) == [("cp1", "w1"), ("w1", "cp1")]


def test_no_answer_of_another_machine_is_a_failure(tmp_path):
    """A pod that only ever hears itself is not shown as working."""
    view = a_show(tmp_path, a=("a", "a"), b=("a",))
    with pytest.raises(show.ShowError, match="the pod on cp1 got no answer"):
        list(view.answers())


def test_a_single_machine_answers_itself(tmp_path):
    """With one machine its own answer will do, but there must be one."""
    view = a_show(tmp_path, a=("a",))
    view.pods = ("a cp1",)
    assert list(view.answers()) == [("cp1", "cp1")]
    view.answers_to = {"a": ()}
    with pytest.raises(show.ShowError):
        list(view.answers())


def test_times_of_earlier_steps_are_read(tmp_path):
    """What `.ci/timed` wrote comes first, in its order; a missing file is no time."""
    times = tmp_path / "times"
    times.write_text("release bundle\t4.4\ninstall Kubernetes\t17.0\n")
    assert show._earlier_times(times) == [("release bundle", 4.4), ("install Kubernetes", 17.0)]
    assert show._earlier_times(tmp_path / "none") == []
