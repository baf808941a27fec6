"""The cluster that the end-to-end tests share, on machines of their own.

Tests run in the order of their files' names in one process: 0x before and at the first apply, 1x what a cluster can
do, 2x the second apply, 3x reboots, 4x reset, 6x the tutorial. 5x, bad input and other shapes, has machines of its own:
`make test-lab` runs it beside the others. Nothing is skipped: without lab or bundle they fail.

    FREEHOLD_TEST_REUSE=1 pytest tests/e2e/test_11_network.py     uses the cluster of an earlier run as it is
    FREEHOLD_TEST_LAB=NAME pytest tests/e2e                       works on machines of another lab
    FREEHOLD_TEST_SHAPE=1+1 pytest tests/e2e/test_33_...          with fewer of them, where one worker is enough
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster import Bundle, Cluster
from tests.support.inventory_of_machine import Inventory, inventory_of
from tests.support.kubectl import Answer, Kubectl
from tests.support.lab import TEST_LAB, Lab
from tests.support.pods import make_namespace, serve_echo
from tests.support.program import Freehold
from tests.support.traces import Watched

from freehold_installer.bundle.store import default_root

HERE = Path(__file__).parent
REUSED = os.environ.get("FREEHOLD_TEST_REUSE", "") not in ("", "0")

TIMEOUT = 900
"""Seconds for one test with its fixtures: the first may have to make the machines' image."""
THE_LAB = pytest.StashKey[Lab]()
"""Where the hook below finds it, also when a fixture failed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: it needs the machines and the bundle."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.bundle)
            on_spare = "spare_lab" in getattr(item, "fixturenames", ())
            assert on_spare == item.path.name.startswith("test_5"), (
                f"{item.nodeid}: 5x is what spare machines are for"
            )
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The release bundle of this machine."""
    return Bundle()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Lab:
    """Machines with nothing on them: one control plane, two workers. They stay, to be looked at."""
    found = Lab.ensure(os.environ.get("FREEHOLD_TEST_SHAPE", "1+2"))
    request.session.stash[THE_LAB] = found
    if not REUSED:
        found.fresh()
        shutil.rmtree(_state_home(found), ignore_errors=True)
    return found


@pytest.fixture(scope="session")
def spare_lab() -> Iterator[Lab]:
    """A control plane and a worker of a lab of their own, fresh, for what would harm the cluster; gone afterwards."""
    spare = _spare()
    for machine in spare.machines:
        spare.wait_for_ssh(machine)
    yield spare
    spare.destroy()


@pytest.fixture(scope="session")
def freehold(lab: Lab) -> Freehold:
    """The installed command, with the lab's inventory and an own state directory."""
    return Freehold(lab.inventory_path, _state_home(lab))


@pytest.fixture(scope="session")
def untouched(lab: Lab) -> dict[str, Inventory]:
    """What each machine held before the first apply; kept for runs that reuse the cluster."""
    kept = default_root() / "e2e" / f"{lab.name}-untouched.json"
    if REUSED:
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    found = {}
    for machine in lab.machines:
        lab.wait_for_boot(machine)
        found[machine] = inventory_of(lab, machine)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


@pytest.fixture(scope="session")
def first_apply(freehold: Freehold, bundle: Bundle, untouched: dict[str, Inventory]) -> Answer:
    """What the first `freehold apply --yes` said; it is done once, by whoever asks first."""
    if REUSED and list(freehold.state_home.glob("freehold/*/kubeconfig")):
        return Answer("freehold apply (by an earlier run)", 0, "", "")
    return freehold("apply", "--yes")


@pytest.fixture(scope="session")
def cluster(lab: Lab, freehold: Freehold, bundle: Bundle, first_apply: Answer) -> Cluster:
    """A running cluster with the test images on each node."""
    assert not first_apply.failed, str(first_apply)
    made = Cluster(lab, freehold, bundle)
    made.load_images()
    return made


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """The bundle's kubectl with the administrator's kubeconfig."""
    return cluster.kubectl


@pytest.fixture(scope="session")
def watched(cluster: Cluster) -> Watched:
    """The first worker, from the moment that somebody asks for it on: until test_19_quiet.py has looked, nobody may do
    to it what its agent would have to act on.
    """
    return Watched.begin(cluster, cluster.workers[0])


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test; it goes away in its own time."""
    name = "t-" + hashlib.sha256(f"{request.node.nodeid}{os.getpid()}".encode()).hexdigest()[:10]
    make_namespace(kubectl, name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture
def here(kubectl: Kubectl, namespace: str) -> Kubectl:
    """kubectl in the test's own namespace."""
    return kubectl.within(namespace)


@pytest.fixture(scope="session")
def echo(cluster: Cluster, kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace with a web server and a shell on each node (manifests/echo.yaml), all ready."""
    name = "e2e-echo"
    if REUSED:
        kubectl("delete", "namespace", name, "--ignore-not-found", timeout=120)
    yield serve_echo(cluster, kubectl, name)
    kubectl("delete", "namespace", name, "--wait=false", check=False)


def _spare() -> Lab:
    """Return new machines. A lab's network follows from its name: another name where that network is taken."""
    for number in range(10):
        spare = Lab(f"{TEST_LAB}-spare{number or ''}", "1+1")
        spare.destroy()  # whatever a killed run left
        try:
            spare.up()
            return spare
        except AssertionError as error:
            if "already used" not in str(error):
                raise
    raise AssertionError("no network is free for a second lab")


def _state_home(lab: Lab) -> Path:
    return default_root() / "e2e" / lab.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Add to a failure what the machines have to say: failed units and the end of their journals."""
    report = yield
    if report.failed and call.when in ("setup", "call") and isinstance(item, pytest.Function):
        found = item.session.stash.get(THE_LAB, None)
        if found is not None:
            report.sections += [(f"machine {name}", _last_words(found, name)) for name in found.machines]
    return report


def _last_words(lab: Lab, machine: str) -> str:
    try:
        return lab.exec(machine, "sh", "-c", LAST_WORDS, check=False, timeout=20).stdout
    except Exception as error:  # a dead machine must not hide the failure that this is about
        return f"{type(error).__name__}: {error}"


LAST_WORDS = r"""
systemctl list-units --plain --no-legend --state=failed,auto-restart
for unit in $(systemctl list-units --plain --no-legend --state=failed,auto-restart | cut -d' ' -f1); do
  echo "--- $unit"; journalctl --no-pager --output=short-precise --lines=20 --unit="$unit"
done
echo "--- errors"; journalctl --no-pager --boot --output=short-precise --priority=err --lines=15
"""
