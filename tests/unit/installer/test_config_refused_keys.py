import json

import pytest

from freehold_installer.config import InventoryError, loads
from freehold_installer.config.loading import all_keys
from freehold_installer.config.refused_keys import REFUSALS, Verdict, rows_for

HOSTS = {"cp1": {"address": "10.0.0.1", "roles": ["control-plane"]}}


def attempt(config=None, **parts):
    """Return the problems of an inventory as key -> words; empty when it loads."""
    try:
        loads(json.dumps({"name": "x", "hosts": HOSTS, "config": config or {}, **parts}))
    except InventoryError as error:
        return {problem.key: problem.said for problem in error.problems}
    return {}


def below_config(key, value):
    """Return the nested mapping that gives `key` (with dots) the value."""
    for step in reversed(key.split(".")):
        value = {step: value}
    return value


@pytest.mark.parametrize(
    "row",
    [row for row in REFUSALS if row.key.startswith("config.") and row.when is None],
    ids=lambda row: row.key,
)
def test_a_refused_key_is_refused_by_name_with_its_reason(row):
    """Asking for something below a refused key is an error with that key or a part of it, and the reason."""
    key = row.key.removeprefix("config.")
    found = attempt(below_config(key, {"enabled": True}))
    assert found == {row.key: row.message}


@pytest.mark.parametrize(
    "row",
    [row for row in REFUSALS if row.key.startswith("config.") and row.when is None],
    ids=lambda row: row.key,
)
def test_a_refused_key_that_is_switched_off_is_fine(row):
    """A vcluster.yaml that says `enabled: false` says what is the case, so it is no error."""
    assert attempt(below_config(row.key.removeprefix("config."), {"enabled": False})) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("controlPlane.standalone.enabled", False),
        ("controlPlane.standalone.dataDir", "/srv/freehold"),
        ("controlPlane.distro.k8s.enabled", False),
        ("controlPlane.distro.k8s.scheduler.enabled", False),
        ("controlPlane.backingStore.etcd.embedded.enabled", False),
        ("controlPlane.statefulSet.highAvailability.replicas", 3),
        ("controlPlane.coredns.enabled", False),
        ("controlPlane.advanced.virtualScheduler.enabled", False),
        ("networking.podCIDR", "10.244.0.0/16,fd00::/48"),
        ("networking.podCIDR", "fd00::/48"),
        ("networking.serviceCIDR", "10.96.0.0/12,fd01::/108"),
        ("networking.services.cidr", "fd01::/108"),
        ("privateNodes.enabled", False),
    ],
)
def test_a_value_whose_feature_is_not_there_is_refused(key, value):
    """Values that need a later feature, or a host cluster, are refused where they stand, once."""
    found = attempt(below_config(key, value))
    assert list(found) == [f"config.{key}"]
    assert found[f"config.{key}"].startswith(("not yet", "makes no sense here"))


def test_several_control_planes_are_not_yet():
    """A second control plane is refused as 'not yet', and nothing else is said about it."""
    hosts = {f"cp{n}": {"address": f"10.0.0.{n}", "roles": ["control-plane"]} for n in (1, 2, 3)}
    assert attempt(hosts=hosts) == {"hosts": "not yet: there is exactly one control plane for now"}


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"ssh": {"jumpHost": "gate"}}, "ssh.jumpHost"),
        ({"hosts": {"cp1": {**HOSTS["cp1"], "ssh": {"jumpHost": "gate"}}}}, "hosts.cp1.ssh.jumpHost"),
        ({"hosts": {"cp1": {**HOSTS["cp1"], "dataDir": "/srv"}}}, "hosts.cp1.dataDir"),
        ({"hosts": {"cp1": {**HOSTS["cp1"], "internalAddress": "fd00::1"}}}, "hosts.cp1.internalAddress"),
        ({"hosts": {**HOSTS, "e": {"address": "10.0.0.2", "roles": ["etcd"]}}}, "hosts.e.roles"),
    ],
)
def test_own_keys_whose_feature_is_not_there(part, key):
    """Our own keys of later features are refused as 'not yet' as well."""
    found = attempt(**part)
    assert list(found) == [key]
    assert found[key].startswith("not yet")


def test_a_part_with_a_reason_of_its_own_speaks_for_itself():
    """storageClass is explained by the machine's disk rather than by the section around it."""
    found = attempt(
        {"controlPlane": {"statefulSet": {"persistence": {"volumeClaim": {"storageClass": "fast"}}}}}
    )
    assert list(found) == ["config.controlPlane.statefulSet.persistence.volumeClaim.storageClass"]


def test_an_unknown_key_beside_a_refused_one_is_still_unknown():
    """Sections that exist only in the table do not swallow what is not in it."""
    found = attempt({"controlPlane": {"advanced": {"konnectivty": {"enabled": True}}}})
    assert found == {"config.controlPlane.advanced.konnectivty": "unknown key; did you mean konnectivity?"}


def test_a_refused_value_is_never_repeated():
    """A data source with a password does not appear in the message."""
    source = "postgres://u:hunter2@db/x"
    found = attempt(
        {
            "controlPlane": {
                "backingStore": {"database": {"external": {"enabled": True, "dataSource": source}}}
            }
        }
    )
    assert "hunter2" not in str(found)
    assert found["config.controlPlane.backingStore.database"].startswith("not yet")


def test_account_and_telemetry_give_a_note():
    """telemetry, platform, pro and license are accepted, whatever they hold, with a note each."""
    config = {"telemetry": {"enabled": True}, "platform": {"api": {"x": 1}}, "pro": True, "license": "abc"}
    inventory = loads(json.dumps({"name": "x", "hosts": HOSTS, "config": config}))
    assert [note.split()[0] for note in inventory.notes] == list(config)


def test_the_table_is_consistent():
    """No row is there twice for the same values, and a row for any value never hides a key of the model."""
    seen = [(row.key, row.when) for row in REFUSALS]
    assert len(set(seen)) == len(seen)
    model = {key.replace("NAME", "*") for key in all_keys()}
    whole = {row.key for row in REFUSALS if row.when is None and row.verdict is not Verdict.NOTE}
    assert model & whole == set()
    assert all(rows_for(row.steps) for row in REFUSALS)
