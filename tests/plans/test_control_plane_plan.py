"""Plans of a control-plane machine: facts and inventory in, the exact list of changes out."""

from pathlib import Path

import pytest
from tests.support.a_control_plane import a_context, observed_as_wanted

from freehold_agent.contract.resources import Artifact, Directory, File, Unit, difference, key_of
from freehold_installer.config import loads
from freehold_installer.desired.cluster import artifacts_in_order, control_plane_resources

GOLDEN = Path(__file__).parent / "golden" / "control_plane_keys.txt"


@pytest.fixture
def resources():
    return control_plane_resources(a_context())


def test_a_fresh_machine_gets_every_resource_in_the_recorded_order(resources):
    """What a control plane consists of changes only together with the golden list."""
    changes = difference({}, resources)

    assert {change.action for change in changes} == {"create"}
    assert GOLDEN.read_text().splitlines() == [
        f"{change.key.split(':')[0]}:{change.title}" if change.title else change.key for change in changes
    ]


def test_a_converged_machine_has_an_empty_plan(resources):
    """When everything is as wanted there is nothing to do."""
    assert difference(observed_as_wanted(resources), resources, [key_of(r) for r in resources]) == []


def test_the_same_inventory_twice_gives_the_same_resources():
    """Desired state is a pure function: no clock, no chance, no order of a set."""
    assert control_plane_resources(a_context()) == control_plane_resources(a_context())


def test_keys_are_unique(resources):
    """One thing on the machine has one owner in the list."""
    keys = [key_of(resource) for resource in resources if not isinstance(resource, Artifact)]

    assert len(set(keys)) == len(keys)


def test_parents_come_before_children(resources):
    """A directory is made before anything in it."""
    seen: set[str] = set()
    ours = {resource.path for resource in resources if isinstance(resource, Directory)}
    for resource in resources:
        path = getattr(resource, "path", "")
        parent = path.rpartition("/")[0]
        assert parent not in ours or parent in seen, f"{path} comes before its directory"
        if isinstance(resource, Directory):
            seen.add(path)


def test_private_keys_are_secret_and_readable_by_one_user(resources):
    """Whatever holds a private key is never diffed and has mode 0600 before its bytes."""
    for resource in resources:
        if isinstance(resource, File) and b"PRIVATE KEY" in resource.content:
            assert resource.secret, resource.path
            assert resource.mode == 0o600, resource.path


def test_no_secret_reaches_a_unit_file(resources):
    """Command lines and environments are public on a machine."""
    secrets = [r.content for r in resources if isinstance(r, File) and r.secret]
    units = [r for r in resources if isinstance(r, File) and r.path.endswith(".service")]

    assert units
    for unit in units:
        assert not any(secret.strip() in unit.content for secret in secrets)


def test_every_started_unit_knows_its_inputs(resources):
    """A unit without inputs could run with old settings unseen."""
    files = {r.path.rpartition("/")[2]: r.content.decode() for r in resources if isinstance(r, File)}
    for unit in (r for r in resources if isinstance(r, Unit)):
        assert f"FREEHOLD_INPUTS={unit.inputs}" in files[unit.name]


def test_a_changed_argument_restarts_only_its_component():
    """The plan for one flag of the API server is its unit file and its restart."""
    before = control_plane_resources(a_context())
    changed = loads(
        """
        name: test
        hosts: {cp1: {address: 10.73.0.11, roles: [control-plane]}}
        config:
          controlPlane: {distro: {k8s: {apiServer: {extraArgs: ["--event-ttl=2h"]}}}}
        """
    )
    after = control_plane_resources(a_context(changed))

    changes = difference(observed_as_wanted(before), after, [key_of(r) for r in before])

    assert [(change.action, change.key) for change in changes] == [
        ("update", "file:/etc/systemd/system/kube-apiserver.service"),
        ("update", "unit:kube-apiserver.service"),
    ]


def test_programs_are_needed_in_the_order_they_are_streamed(resources):
    """etcd and the API server come before what waits for them."""
    titles = [artifact.title for artifact in artifacts_in_order(resources)]

    assert titles[:3] == ["bin/freehold-services.pyz", "bin/etcd", "bin/kube-apiserver"]
