import pytest

from freehold_installer.config import InventoryError, loads


def a_cluster(config="", workers=1, **hosts):
    """Return the text of an inventory with a control plane at 10.0.0.1 and workers from 10.0.1.1 on."""
    lines = ["name: x", "hosts:", "  cp1: {address: 10.0.0.1, roles: [control-plane]}"]
    lines += [
        f"  w{n}: {{address: 10.0.{1 + n // 250}.{1 + n % 250}, roles: [worker]}}" for n in range(workers)
    ]
    lines += [f"  {name}: {{{text}}}" for name, text in hosts.items()]
    return "\n".join([*lines, f"config: {{{config}}}", ""])


NO_NODE = "controlPlane: {standalone: {joinNode: {enabled: false%s}}}"


def test_a_control_plane_without_a_node_is_none():
    """It takes no part of the pods' network, and is not among the nodes."""
    inventory = loads(a_cluster(NO_NODE % "", workers=2))
    assert [host.name for host in inventory.nodes] == ["w0", "w1"]
    small = "networking: {podCIDR: 10.244.0.0/23}, "
    assert loads(a_cluster(small + NO_NODE % "", workers=2)).max_nodes == 2


def test_a_backend_of_a_flannel_that_is_not_there():
    """A setting without effect is an error, not silence."""
    found = errors(a_cluster("deploy: {cni: {flannel: {enabled: false, backend: host-gw}}}"))
    assert found == {"config.deploy.cni.flannel.backend": "flannel is not enabled"}


def test_pods_of_a_coredns_that_is_a_unit():
    """Settings of pods say nothing while CoreDNS is embedded, which is the default."""
    found = errors(a_cluster("controlPlane: {coredns: {deployment: {replicas: 2}}}"))
    assert list(found) == ["config.controlPlane.coredns.deployment"]
    coredns = "controlPlane: {coredns: {embedded: false, deployment: {resources: {limits: {memory: %s}}}}}"
    assert loads(a_cluster(coredns % "1Gi")).config.control_plane.coredns.deployment.replicas == 1
    assert "64Mi or 2Gi" in next(iter(errors(a_cluster(coredns % "1G")).values()))


def test_what_is_asked_of_a_node_that_is_none_is_an_error():
    """Labels and taints of a control plane that has no Node are refused where they stand."""
    found = errors(a_cluster(NO_NODE % ", labels: {a: b}, taints: [{key: c, effect: NoSchedule}]"))
    join_node = "config.controlPlane.standalone.joinNode."
    assert set(found) == {join_node + "labels", join_node + "taints"}
    text = a_cluster(NO_NODE % "").replace("roles: [control-plane]", "roles: [control-plane], labels: {a: b}")
    assert set(errors(text)) == {"hosts.cp1.labels"}


def errors(text):
    """Return key -> what is said of it."""
    with pytest.raises(InventoryError) as caught:
        loads(text)
    return {problem.key: problem.said for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("config", "key", "words"),
    [
        ("networking: {podCIDR: 10.96.0.0/16}", "networking.podCIDR", "overlaps the Services' 10.96.0.0/12"),
        ("networking: {podCIDR: 10.0.0.0/16}", "", ""),
        ("networking: {podCIDR: 169.254.0.0/16}", "networking.podCIDR", "link-local"),
        ("networking: {serviceCIDR: 10.96.0.0/29}", "networking.serviceCIDR", "/12 to /28"),
        ("networking: {services: {cidr: 10.0.0.0/8}}", "networking.services.cidr", "/12 to /28"),
        (
            "networking: {services: {cidr: 10.97.0.0/16}, serviceCIDR: 10.98.0.0/16}",
            "networking.services.cidr",
            "contradicts",
        ),
        ("networking: {nodeCIDRMaskSize: 15}", "networking.nodeCIDRMaskSize", "more than the whole"),
        ("networking: {nodeCIDRMaskSize: 30}", "networking.nodeCIDRMaskSize", "no room for pods"),
        (
            "networking: {podCIDR: 100.64.0.0/11, nodeCIDRMaskSize: 28}",
            "networking.nodeCIDRMaskSize",
            "at most 27",
        ),
        (
            "controlPlane: {statefulSet: {highAvailability: {leaseDuration: 10}}}",
            "controlPlane.statefulSet.highAvailability.leaseDuration",
            "must be more than renewDeadline (10 s)",
        ),
        (
            "controlPlane: {statefulSet: {highAvailability: {retryPeriod: 9}}}",
            "controlPlane.statefulSet.highAvailability.renewDeadline",
            "1.2 times retryPeriod (9 s)",
        ),
        (
            "controlPlane: {standalone: {advertiseAddress: 10.0.1.1}}",
            "controlPlane.standalone.advertiseAddress",
            "is the worker w0",
        ),
        (
            "controlPlane: {standalone: {advertiseAddress: 10.96.0.5}}",
            "controlPlane.standalone.advertiseAddress",
            "lies inside networking.serviceCIDR",
        ),
    ],
)
def test_settings_that_contradict_each_other(config, key, words):
    """What is wrong only together is found, and blamed on the key that should change."""
    found = errors(a_cluster(config))
    if key:
        assert words in found[f"config.{key}"]
    else:
        assert "lies inside networking.podCIDR" in found["hosts.cp1.address"]


def test_good_settings_are_kept():
    """The other spelling of the service network, other timings and an own address are taken as given."""
    inventory = loads(
        a_cluster(
            "networking: {services: {cidr: 172.20.0.0/16}}, "
            "controlPlane: {standalone: {advertiseAddress: 192.0.2.1}, statefulSet: {highAvailability: "
            "{replicas: 1, leaseDuration: 60, renewDeadline: 40, retryPeriod: 15}}, "
            "proxy: {extraSANs: [Api.example.org, 192.0.2.9]}}"
        )
    )
    networking, control = inventory.config.networking, inventory.config.control_plane
    assert (networking.service_cidr, networking.dns_address) == ("172.20.0.0/16", "172.20.0.10")
    assert control.stateful_set.high_availability.timings == (60, 40, 15)
    assert control.proxy.extra_sans == ("api.example.org", "192.0.2.9")
    assert inventory.advertise_address(inventory.hosts["cp1"]) == "192.0.2.1"


@pytest.mark.parametrize(
    ("host", "key", "words"),
    [
        ("address: 10.0.0.1, roles: [worker]", "address", "10.0.0.1 port 22 is already the host cp1"),
        (
            "address: 192.0.2.1, internalAddress: 10.0.0.1, roles: [worker]",
            "internalAddress",
            "already the host cp1",
        ),
        ("address: m.example.org, roles: [worker]", "address", "give the host an internalAddress"),
        ("address: 127.0.0.1, roles: [worker]", "address", "give the host an internalAddress"),
        (
            "address: 192.0.2.1, internalAddress: 127.0.0.2, roles: [worker]",
            "internalAddress",
            "never leaves",
        ),
        ("address: 10.244.3.4, roles: [worker]", "address", "lies inside networking.podCIDR"),
        (
            "address: 192.0.2.1, internalAddress: 10.100.0.1, roles: [worker]",
            "internalAddress",
            "networking.serviceCIDR",
        ),
        ("address: '2001:db8::1', roles: [worker]", "address", "not yet: IPv6"),
        ("address: 192.0.2.1, roles: [worker, worker]", "roles", "given twice"),
    ],
)
def test_hosts_that_cannot_be_right(host, key, words):
    """Each host needs an address of its own that other machines can use, and sensible roles."""
    assert words in errors(a_cluster(odd=host))[f"hosts.odd.{key}"]


def test_machines_behind_one_forwarded_address():
    """Several machines may share an SSH address with different ports when each has an internalAddress."""
    inventory = loads("""\
name: x
hosts:
  cp1: {address: 127.0.0.1, internalAddress: 10.0.0.1, ssh: {port: 2201}, roles: [control-plane]}
  w1: {address: 127.0.0.1, internalAddress: 10.0.0.2, ssh: {port: 2202}, roles: [worker]}
""")
    assert [host.internal_address for host in inventory.nodes] == ["10.0.0.1", "10.0.0.2"]


def test_a_control_plane_is_needed():
    """An inventory of workers only is refused, and so is a control plane that is also called a worker."""
    text = "name: x\nhosts:\n  w1: {address: 10.0.0.1, roles: [%s]}\n"
    assert errors(text % "worker") == {"hosts": "no host has the role control-plane"}
    assert "is a node already" in errors(text % "worker, control-plane")["hosts.w1.roles"]


def test_room_for_nodes():
    """256 nodes fit into the default networks, one more is refused; from 80 % on there is a warning."""
    assert loads(a_cluster(workers=203)).warnings == ()
    assert "205 of 256 possible nodes" in loads(a_cluster(workers=204)).warnings[0]
    assert len(loads(a_cluster(workers=255)).nodes) == 256
    said = errors(a_cluster(workers=256))["config.networking.nodeCIDRMaskSize"]
    assert "has room for 256 nodes, the inventory has 257" in said


def test_room_for_pods_on_a_node():
    """A node's share that is smaller than what its kubelet takes gives a warning, unless maxPods is less."""
    small = "networking: {nodeCIDRMaskSize: 26}"
    assert "has addresses for 61 pods" in loads(a_cluster(small)).warnings[0]
    assert loads(a_cluster(small + ", privateNodes: {kubelet: {config: {maxPods: 60}}}")).warnings == ()


def test_manifests_must_be_files(tmp_path):
    """Manifests are files beside the inventory; a missing one and an address are refused by place."""
    (tmp_path / "a.yaml").write_text("")
    text = a_cluster() + "manifests: [%s]\n"
    path = tmp_path / "inventory.yaml"
    assert loads(text % "a.yaml", path=path).manifests == (tmp_path / "a.yaml",)
    with pytest.raises(InventoryError) as caught:
        loads(text % "b.yaml, 'https://example.org/c.yaml'", path=path)
    assert [problem.key for problem in caught.value.problems] == ["manifests[0]", "manifests[1]"]
