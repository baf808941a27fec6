"""Status: what each machine and the API say now. Reads only."""

from collections.abc import Mapping
from typing import Any

from freehold_agent.machine.kubernetes_api import ApiError
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.config import Inventory
from freehold_installer.engine.machine import Machine
from freehold_installer.engine.run import Run
from freehold_installer.phases import access, trust

UNITS = {
    "control": (
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "coredns",
        "freehold-artifacts",
        "freehold-join",
        "freehold-controller",
    ),
    "node": ("containerd", "kubelet", "kube-proxy", "flannel", "freehold-agent"),
}


def status(run: Run) -> dict[str, Any]:
    """Return `{cluster, machines: {name: {units}}, nodes: [...]}`; a missing answer is null with its reason."""
    run.connect()

    def units(machine: Machine) -> dict[str, str]:
        names = units_of(run.inventory, machine.name)
        output = machine.run(["systemctl", "is-active", *(f"{name}.service" for name in names)])
        return dict(zip(names, output.text.splitlines(), strict=False))

    machines = run.each(units)
    listing, reason = _nodes(run)
    return {
        "cluster": run.inventory.name,
        "machines": {name: {"units": found} for name, found in machines.items()},
        "nodes": listing,
        "api": reason or "ok",
    }


def units_of(inventory: Inventory, machine: str) -> list[str]:
    """Return the units that freehold runs on a machine, without `.service`, in start order."""
    host = inventory.hosts[machine]
    is_node = inventory.is_node(host)
    deploy = inventory.config.deploy
    absent = {
        name
        for name, enabled in (
            ("flannel", deploy.cni.flannel.enabled),
            ("kube-proxy", deploy.kube_proxy.enabled),
            ("coredns", inventory.config.control_plane.coredns.embedded),
        )
        if not enabled
    }
    names = [
        *(UNITS["control"] if host.is_control_plane else ()),
        *(("freehold-pod-routes",) if host.is_control_plane and not is_node else ()),
        *(UNITS["node"] if is_node else ()),
    ]
    return [name for name in names if name not in absent]


def _nodes(run: Run) -> tuple[list[dict[str, Any]] | None, str]:
    plane = run.inventory.control_planes[0]
    pki = PkiDirectory(str(run.state_dir.pki))
    if pki.missing([trust.ADMIN]):
        return None, "no cluster yet: freehold apply"
    api = access.api_of(run.machines[plane.name], plane.internal_address, pki, trust.ADMIN)
    try:
        items = api.list("/api/v1/nodes")["items"]
    except (ApiError, OSError) as error:
        return None, f"does not answer: {error}"
    finally:
        api.close()
    hosts = run.inventory.hosts
    return [{**node_row(node), "inventory": node["metadata"]["name"] in hosts} for node in items], ""


def node_row(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tables say of a Node."""
    conditions = {c["type"]: c for c in node["status"].get("conditions", [])}
    ready = conditions.get("Ready", {}).get("status") == "True"
    addresses = [a["address"] for a in node["status"].get("addresses", []) if a["type"] == "InternalIP"]
    return {
        "name": node["metadata"]["name"],
        "ready": ready,
        "reason": "" if ready else conditions.get("Ready", {}).get("message", "its kubelet has not reported"),
        "version": node["status"].get("nodeInfo", {}).get("kubeletVersion", ""),
        "addresses": addresses,
        "podCIDRs": node["spec"].get("podCIDRs", []),
    }
