"""The desired state of a node: whole, ordered, and the same for the same input."""

import configparser
import json

try:
    import tomllib
except ImportError:  # Python 3.9 and 3.10
    import tomli as tomllib
from typing import Any

import pytest
from tests.support.a_node import a_document, a_network, lab, ubuntu

from freehold_agent.contract import paths
from freehold_agent.contract.resources import (
    Artifact,
    Directory,
    File,
    Link,
    Resource,
    Route,
    Sysctl,
    Unit,
    from_json,
    key_of,
    to_json,
)
from freehold_agent.desired import addon_keys, desired_node

MACHINES = {
    "lab": lab(),
    "ubuntu": ubuntu(),
    "swap": ubuntu(swap=True),
    "old": ubuntu(kernel="5.4.0", tools={"nft": None, "iptables": "1.8.4"}),
}


def keys(resources: list[Resource]) -> list[str]:
    return [key_of(resource) for resource in resources]


def files(resources: list[Resource]) -> dict[str, File]:
    return {resource.path: resource for resource in resources if isinstance(resource, File)}


def unit_text(name: str, facts: dict[str, Any], **changes: Any) -> dict[str, list[str]]:
    """Return a unit file's settings, each with all its values."""
    text = files(desired_node(a_document(**changes), facts))[paths.UNITS + "/" + name].content.decode()
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


@pytest.mark.parametrize("facts", MACHINES.values(), ids=MACHINES)
class TestEveryMachine:
    def test_the_same_input_gives_the_same_resources(self, facts: dict[str, Any]) -> None:
        """Two computations from equal input are equal: the second apply finds nothing to do."""
        assert desired_node(a_document(), facts) == desired_node(a_document(), facts)

    def test_keys_are_unique(self, facts: dict[str, Any]) -> None:
        """No resource is asked for twice: the second would undo the first for ever."""
        found = keys(desired_node(a_document(), facts))
        assert len(found) == len(set(found))

    def test_resources_travel_as_json(self, facts: dict[str, Any]) -> None:
        """Every resource survives the way over SSH."""
        for resource in desired_node(a_document(), facts):
            assert from_json(json.loads(json.dumps(to_json(resource)))) == resource

    def test_parents_come_first(self, facts: dict[str, Any]) -> None:
        """A directory of ours is made before anything that lies in it."""
        made: set[str] = set()
        ours = {r.path for r in desired_node(a_document(), facts) if isinstance(r, Directory)}
        for resource in desired_node(a_document(), facts):
            if isinstance(resource, (File, Link, Directory)):
                parent = resource.path.rpartition("/")[0]
                assert parent in made or parent not in ours, resource.path
            if isinstance(resource, Directory):
                made.add(resource.path)

    def test_every_file_has_a_directory(self, facts: dict[str, Any]) -> None:
        """What is written lies in a directory that a machine has anyway or that is asked for."""
        resources = desired_node(a_document(), facts)
        ours = {r.path for r in resources if isinstance(r, Directory)}
        given = {"/etc", "/opt", paths.UNITS, "/etc/sysctl.d", "/etc/modules-load.d"}
        for resource in resources:
            if isinstance(resource, (File, Link)):
                assert resource.path.rpartition("/")[0] in ours | given, resource.path

    def test_units_carry_their_inputs(self, facts: dict[str, Any]) -> None:
        """Each Unit's inputs stand in its unit file, so that the running process tells what it started with."""
        resources = desired_node(a_document(), facts)
        for resource in resources:
            if isinstance(resource, Unit):
                text = files(resources)[paths.UNITS + "/" + resource.name].content.decode()
                assert "Environment=FREEHOLD_INPUTS=" + resource.inputs + "\n" in text

    def test_unit_files_can_be_read(self, facts: dict[str, Any]) -> None:
        """Each unit file has the three sections, an absolute program and the node's slice."""
        for path, file in files(desired_node(a_document(), facts)).items():
            if path.endswith(".service"):
                parser = configparser.ConfigParser(strict=False, interpolation=None)
                parser.read_string(file.content.decode())
                assert parser.sections() == ["Unit", "Service", "Install"]
                assert parser["Service"]["ExecStart"].startswith("/")
                assert parser["Service"]["Slice"] == paths.NODE_SLICE
                assert parser["Unit"]["StartLimitIntervalSec"] == "0"

    def test_json_and_toml_can_be_read(self, facts: dict[str, Any]) -> None:
        """Each configuration file parses as what it is."""
        for path, file in files(desired_node(a_document(), facts)).items():
            if path.endswith((".json", ".conflist")) or path == paths.NODE_KUBECONFIG:
                json.loads(file.content)
            if path.endswith(".toml"):
                tomllib.loads(file.content.decode())

    def test_no_limit_on_files_above_the_hard_one(self, facts: dict[str, Any]) -> None:
        """Without the capability to raise it, a unit never asks for more open files than there may be."""
        value = int(unit_text("containerd.service", facts)["LimitNOFILE"][0])
        assert facts["cap_sys_resource"] or value <= facts["nofile"]


def test_without_a_credential_the_kubelet_is_last() -> None:
    """Before the bootstrap all files are there, and the Units that need the certificate are not asked for."""
    before = desired_node(a_document(), lab(), credential_ready=False)
    units = [resource.name for resource in before if isinstance(resource, Unit)]
    assert units == [
        "containerd.service",
        "freehold-routes.service",
        "freehold-pods.service",
        "freehold-images.service",
        "kubelet.service",
    ]
    assert before[-1].name == "kubelet.service"
    assert paths.KUBELET_KUBECONFIG not in files(before)
    assert {f"{paths.UNITS}/{name}.service" for name in ("flannel", "kube-proxy", "freehold-agent")} <= set(
        files(before)
    )


def test_with_a_credential_the_rest_follows_the_kubelet() -> None:
    """After the bootstrap the kubeconfig and the three Units are added, behind the kubelet; add-ons come last."""
    before = keys(desired_node(a_document(), lab(), credential_ready=False))
    after = keys(desired_node(a_document(), lab(), credential_ready=True))
    assert after[: len(before)] == before
    added = after[len(before) :]
    assert added[:4] == [
        "file:" + paths.KUBELET_KUBECONFIG,
        "unit:flannel.service",
        "unit:kube-proxy.service",
        "unit:freehold-agent.service",
    ]
    assert set(added[4:]) == addon_keys(a_document())
    assert added[-1] == "unit:freehold-addon-images.service"


def test_small_files_come_before_the_first_unit() -> None:
    """One reload of systemd serves all units."""
    resources = desired_node(a_document(), lab(), credential_ready=False)
    first = next(i for i, resource in enumerate(resources) if isinstance(resource, Unit))
    assert not [r for r in resources[first:] if isinstance(r, File)]


def test_containerd_starts_while_the_rest_arrives() -> None:
    """On a machine without a release only containerd's own programs stand before its start."""
    found = keys(desired_node(a_document(), lab()))
    resources = desired_node(a_document(), lab())
    titles = [r.title for r in resources if isinstance(r, Artifact)]
    start = found.index("unit:containerd.service")
    assert titles[:2] == ["bin/containerd", "bin/containerd-shim-runc-v2"]
    assert sum(1 for key in found[:start] if key.startswith("artifact:")) == 2
    assert found.index("link:" + paths.CURRENT) < start


def test_a_new_release_is_switched_to_when_it_is_whole() -> None:
    """Where a release is in use, the link moves only behind the last file of the new one that a node needs."""
    found = keys(desired_node(a_document(), lab(release="1.37.1-aaaaaaaaaaaa")))
    addons = addon_keys(a_document())
    last = max(i for i, key in enumerate(found) if key.startswith("artifact:") and key not in addons)
    assert last < found.index("link:" + paths.CURRENT) < found.index("unit:containerd.service")


def test_a_control_plane_keeps_its_own_authority() -> None:
    """On a control plane the node does not own the CA's file: leaving must not take it away."""
    found = files(desired_node(a_document(control_plane=True), lab()))
    assert paths.CLUSTER_CA not in found
    assert paths.CLUSTER_CA in files(desired_node(a_document(), lab()))


def test_no_default_route_means_a_route_to_services() -> None:
    """Without a default route the node reaches ClusterIPs by a route over its own interface."""
    routes = [r for r in desired_node(a_document(), lab()) if isinstance(r, Route)]
    assert routes == [Route("10.96.0.0/12", "eth0", source="10.73.0.12")]
    assert not [r for r in desired_node(a_document(), ubuntu()) if isinstance(r, Route)]


def test_modules_only_where_they_can_be_loaded() -> None:
    """A built-in module is not asked for, an absent one neither, and its sysctls only where it is."""
    assert not [key for key in keys(desired_node(a_document(), lab())) if key == "module:br_netfilter"]
    assert "module:br_netfilter" in keys(desired_node(a_document(), ubuntu()))
    bare = desired_node(a_document(), ubuntu(modules={}))
    assert not [r for r in bare if isinstance(r, Sysctl) and "bridge" in r.name]


def test_only_writable_kernel_settings() -> None:
    """A sysctl of the host above us is left alone."""
    names = {r.name for r in desired_node(a_document(), lab()) if isinstance(r, Sysctl)}
    assert names == {
        "net.ipv4.ip_forward",
        "net.bridge.bridge-nf-call-iptables",
        "net.bridge.bridge-nf-call-ip6tables",
    }
    assert Sysctl("vm.overcommit_memory", "1") in desired_node(a_document(), ubuntu())


def test_limits_are_raised_and_never_lowered() -> None:
    """A limit below the least one is raised, a higher one kept; the second look wants the same."""
    name = "fs.inotify.max_user_instances"
    for present, wanted in ((128, "8192"), (8192, "8192"), (65536, "65536")):
        facts = ubuntu(sysctls_writable=[name], limits={name: present})
        assert Sysctl(name, wanted) in desired_node(a_document(), facts)


def test_the_agent_runs_from_the_release() -> None:
    """The agent is started from the release, by the interpreter that was found."""
    assert unit_text("freehold-agent.service", lab())["ExecStart"] == [
        "/usr/bin/python3 -I -X no_debug_ranges " + paths.AGENT_ZIPAPP + " run"
    ]


def test_a_settings_change_changes_only_its_unit() -> None:
    """Another kubelet setting restarts the kubelet and nothing else."""
    before = {r.name: r for r in desired_node(a_document(), lab()) if isinstance(r, Unit)}
    changed = desired_node(a_document(kubelet={"maxPods": 50}), lab())
    after = {r.name: r for r in changed if isinstance(r, Unit)}
    assert [name for name in before if before[name] != after[name]] == ["kubelet.service"]


def test_capability_decides_scores() -> None:
    """Without CAP_SYS_RESOURCE no unit asks for a score that would be refused."""
    for name in ("containerd", "kubelet", "flannel", "kube-proxy", "freehold-agent"):
        assert "OOMScoreAdjust" not in unit_text(name + ".service", lab())
    assert unit_text("containerd.service", ubuntu())["OOMScoreAdjust"] == ["-999"]


def test_another_network_touches_nothing() -> None:
    """With flannel and kube-proxy off, their files and Units are absent, and the CNI directory exists."""
    document = a_document(network=a_network(flannel=False, kube_proxy=False))
    found = keys(desired_node(document, lab()))
    own = [key for key in found if not key.startswith("link:")]
    assert not [key for key in own if "flannel" in key or "kube-proxy" in key or "conflist" in key]
    directory = next(r for r in desired_node(document, lab()) if key_of(r) == "directory:" + paths.CNI_CONFIG)
    assert isinstance(directory, Directory)
    assert directory.keep
