"""CoreDNS in pods: its objects, its image, and what changes on the control plane without the unit."""

import json
from typing import Any

import pytest
from tests.support.a_control_plane import INVENTORY, a_context
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.resources import Directory, File, Unit, User
from freehold_agent.desired.containerd import is_addon_image
from freehold_bootstrap.rbac import trust_objects
from freehold_installer.bundle.coredns_image import ENTRY, stored_coredns_image
from freehold_installer.bundle.store import Store
from freehold_installer.config import loads
from freehold_installer.config.cluster import CoreDnsDeployment
from freehold_installer.desired import dns, dns_deployment
from freehold_installer.desired.cluster import control_plane_resources
from freehold_installer.desired.objects import differing_paths, path_of
from freehold_installer.phases import access, preflight, release, report, trust

IN_PODS = INVENTORY + "config: {controlPlane: {coredns: {embedded: false}}}\n"
PODS_SLICE = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-abcde"


def objects(forward: bool = True, **settings: Any) -> dict[str, dict[str, Any]]:
    """Return the objects by kind."""
    found = dns_deployment.objects(
        "10.96.0.10", "cluster.local", "image:1", CoreDnsDeployment(**settings), nodes=2, forward=forward
    )
    return {body["kind"]: body for body in found}


def test_the_service_leads_to_the_pods() -> None:
    """Its selector is that of the pods, its ports are theirs by name, and its address is the one all kubelets know."""
    found = objects()
    spec = found["Service"]["spec"]
    template = found["Deployment"]["spec"]["template"]
    assert spec["clusterIP"] == "10.96.0.10"
    assert spec["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    named = {(port["name"], port["protocol"]): port["containerPort"] for port in container["ports"]}
    assert {(port["targetPort"], port["protocol"]): 1053 for port in spec["ports"]} == named


def test_pods_have_few_rights() -> None:
    """Neither root nor a capability nor a writable file; at the API what the embedded one may read."""
    found = objects()
    spec = found["Deployment"]["spec"]["template"]["spec"]
    security = spec["containers"][0]["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    role = found["ClusterRoleBinding"]["roleRef"]["name"]
    assert [body["metadata"]["name"] for body in trust_objects() if body["kind"] == "ClusterRole"].count(
        role
    ) == 1
    assert spec["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert spec["dnsPolicy"] == "Default", "or it would ask itself"


@pytest.mark.parametrize(("replicas", "domains"), [(1, 1), (2, 2), (5, 2)])
def test_pods_wait_for_nodes_to_be_apart(replicas: int, domains: int) -> None:
    """The first node of a new cluster must not get all of them; more pods than nodes are no reason to wait."""
    (spread,) = objects(replicas=replicas)["Deployment"]["spec"]["template"]["spec"][
        "topologySpreadConstraints"
    ]
    assert spread["minDomains"] == domains
    assert spread["whenUnsatisfiable"] == "DoNotSchedule"


def test_other_names_are_asked_where_nodes_know_somebody() -> None:
    """Without resolvers CoreDNS would not start with a line that needs them."""
    assert "forward . /etc/resolv.conf" in objects()["ConfigMap"]["data"]["Corefile"]
    assert "forward" not in objects(forward=False)["ConfigMap"]["data"]["Corefile"]
    templates = [objects(forward=forward)["Deployment"]["spec"]["template"] for forward in (True, False)]
    assert templates[0]["metadata"] != templates[1]["metadata"], "another Corefile is another pod"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"cpu": "1000m"}, {"cpu": "1"}),
        ({"cpu": "1500m"}, {"cpu": "1500m"}),
        ({"cpu": "2"}, {"cpu": "2"}),
        ({"memory": "1024Mi"}, {"memory": "1Gi"}),
        ({"memory": "170Mi"}, {"memory": "170Mi"}),
        ({"memory": "2048Ki"}, {"memory": "2Mi"}),
    ],
)
def test_quantities_are_written_as_kubernetes_returns_them(
    given: dict[str, str], written: dict[str, str]
) -> None:
    """Otherwise each plan would find a difference."""
    found = objects(resources={"limits": given})["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert found["resources"] == {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": written}


def test_the_control_plane_has_none_of_it() -> None:
    """No unit, user, credential or port, and the controller keeps neither endpoints nor a list of clients."""
    inventory = loads(IN_PODS)
    resources = control_plane_resources(a_context(inventory))
    made = {r.name for r in resources if isinstance(r, (Directory, File, Unit, User))}
    assert not [name for name in made if "coredns" in name]
    assert "kube-scheduler.service" in made
    assert "bin/coredns" in release.unwanted(inventory.config)
    (config,) = [r for r in resources if isinstance(r, File) and r.path == "/etc/freehold/controller.json"]
    assert json.loads(config.content)["dns"] == []
    assert json.loads(config.content)["dns_clients"] is None
    assert "coredns" not in report.units_of(inventory, "cp1")
    # Issued it is all the same: with a certificate to issue, a plan could not look at the API.
    assert trust.requests_for(inventory) == trust.requests_for(loads(INVENTORY))
    host = inventory.hosts["cp1"]
    assert "coredns" not in {port.program for port in preflight._ports(inventory, host)}
    assert "coredns" in {port.program for port in preflight._ports(loads(INVENTORY), host)}


def test_the_image_is_made_once_from_the_program(tmp_path: Any) -> None:
    """The same program gives the same bytes, also in another store; nodes get it before they are Ready."""
    entries = []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        program = store.put_bytes(b"a program")
        part = ArtifactEntry(
            "bin/coredns", program.sha256, program.size, ("control-plane",), version="v1.2.3"
        )
        bundle = Manifest("1.37.2", "amd64", (part,))
        entries.append(stored_coredns_image(store, bundle))
        times = store.path(entries[-1].sha256).stat()
        assert stored_coredns_image(store, bundle) == entries[-1]
        assert store.path(entries[-1].sha256).stat() == times
        store.discard(entries[-1].sha256)
        assert stored_coredns_image(store, bundle) == entries[-1], "a damaged one is made again"
    assert entries[0] == entries[1]
    assert (entries[0].name, entries[0].roles) == (ENTRY, ("node",))
    assert entries[0].image == "registry.freehold.invalid/coredns:v1.2.3"
    assert not is_addon_image(entries[0])


def live(*bodies: dict[str, Any]) -> FakeKubernetes:
    """Return an API that holds these objects."""
    api = FakeKubernetes()
    for body in bodies:
        api.add(path_of(body), body)
    return api


def test_one_kind_takes_the_place_of_the_other() -> None:
    """The plan names what goes, and an apply of that plan removes it; without it nothing is asked of the API."""
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    }
    pods = [*objects().values(), endpoints]
    for text, there, count in ((INVENTORY, pods, 5), (IN_PODS, [dns.endpoint_slice()], 1)):
        inventory, api = loads(text), live(*there)
        labels = dict(pair.split("=") for pair in dns.SLICES_OF_PODS.split(","))
        api.add(PODS_SLICE, {"metadata": {"name": "kube-dns-abcde", "labels": labels}})
        planned = access.superseded_in(api, inventory)
        assert [change.action for change in planned] == ["delete"] * count
        access.remove_superseded(api, "cp1", inventory, planned)
        assert access.superseded_in(api, inventory) == []
        assert api.paths(PODS_SLICE) == ([] if text == INVENTORY else [PODS_SLICE])
        api.calls.clear()
        access.remove_superseded(api, "cp1", inventory, [])
        assert api.calls == []


def test_a_selector_that_is_left_is_a_difference() -> None:
    """The unit's endpoints and a selector's cannot both stand behind the Service."""
    (wanted,) = dns.objects("10.96.0.10")
    assert "spec.selector" in differing_paths(wanted, objects()["Service"])
    without = {**wanted, "spec": {key: value for key, value in wanted["spec"].items() if key != "selector"}}
    assert differing_paths(wanted, without) == []
