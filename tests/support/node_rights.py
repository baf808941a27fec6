"""What a node may do, tried on its machine with the kubelet's certificate that lies there, or with a copy of one."""

import base64
import json
from typing import Any

from tests.support.a_request import a_request
from tests.support.api_from_machine import ApiFromMachine
from tests.support.cluster import Cluster
from tests.support.kubectl import wait_for
from tests.support.whole import PATIENCE

from freehold_agent.contract import paths

FORBIDDEN, NOT_FOUND = 403, 404
NO_RIGHTS: dict[str, Any] = {
    "a Node": FORBIDDEN,
    "its status": NOT_FOUND,
    "a mirror pod": FORBIDDEN,
    "its pods": [],
    "a token": FORBIDDEN,
    "a Secret": FORBIDDEN,
    "a client certificate": "Denied",
    "a serving certificate": "Denied",
}
"""What `rights` finds of a node that was removed."""


def rights(api: ApiFromMachine, namespace: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Try all that a node may do with the certificate that lies on the machine; return what came of it."""
    node, place = api.machine, f"/api/v1/namespaces/{namespace}"
    reference = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    container = {"name": "main", "image": "x.invalid/y:1"}
    posts: dict[str, tuple[str, dict[str, Any]]] = {
        "a Node": ("/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": {"name": node}}),
        "a mirror pod": (
            f"{place}/pods",
            {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": "mirror", "annotations": {"kubernetes.io/config.mirror": "x"}},
                "spec": {"nodeName": node, "containers": [container]},
            },
        ),
        "a token": (
            f"{place}/serviceaccounts/default/token",
            {
                "kind": "TokenRequest",
                "apiVersion": "authentication.k8s.io/v1",
                "spec": {"audiences": [], "boundObjectRef": reference},
            },
        ),
    }
    found: dict[str, Any] = {name: api("POST", path, body).status for name, (path, body) in posts.items()}
    found["its status"] = api.merge(f"/api/v1/nodes/{node}/status", {"status": {"phase": "Running"}}).status
    found["its pods"] = api.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}").body["items"]
    found["a Secret"] = api.get(f"{place}/secrets/password").status
    return {**found, **asked_for_certificates(api)}


def asked_for_certificates(api: ApiFromMachine) -> dict[str, Any]:
    """Ask for certificates with the one that lies on the machine; return how that was judged."""
    node, found = api.machine, {}
    for what, signer, extra in (
        ("client", "kube-apiserver-client-kubelet", ["client auth"]),
        ("serving", "kubelet-serving", ["server auth"]),
    ):
        request = a_request(f"system:node:{node}", sans=[] if what == "client" else [node])
        made = api(
            "POST",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            {
                "kind": "CertificateSigningRequest",
                "apiVersion": "certificates.k8s.io/v1",
                "metadata": {"generateName": "removed-"},
                "spec": {
                    "request": base64.b64encode(request).decode(),
                    "signerName": f"kubernetes.io/{signer}",
                    "usages": ["digital signature", *extra],
                },
            },
        )
        found[f"a {what} certificate"] = _verdict(api.cluster, made.body["metadata"]["name"])
    return found


def watch_secret(cluster: Cluster, machine: str, secret: str) -> str:
    """Follow a Secret with the node's certificate for as long as it lasts; return the unit that does."""
    place, _, name = secret.rpartition("/")
    url = f"https://{cluster.address(cluster.control_plane)}:6443{place}?watch=1&timeoutSeconds=86400"
    certificate = paths.KUBELET_CLIENT_CERTIFICATE
    cluster.run(
        machine,
        "systemd-run --quiet --unit=e2e-watch --property=StandardOutput=file:/tmp/e2e-watch "
        f"curl --silent --no-buffer --cacert {paths.CLUSTER_CA} --cert {certificate} --key {certificate} "
        f"'{url}&fieldSelector=metadata.name%3D{name}'",
    )
    wait_for(
        lambda: "ADDED" in cluster.run(machine, "cat /tmp/e2e-watch || true"), PATIENCE, "the watch to begin"
    )
    return "e2e-watch"


def passwords_told(cluster: Cluster, machine: str, unit: str) -> list[str]:
    """Wait until the watch has ended; return the passwords that it told."""
    state = f"systemctl show --property=ActiveState --value {unit}"
    wait_for(lambda: cluster.run(machine, state) != "active", PATIENCE, "the API server to end the watch")
    events = cluster.run(machine, f"cat /tmp/{unit}; rm /tmp/{unit}; systemctl reset-failed {unit} || true")
    objects = [json.loads(line)["object"] for line in events.splitlines()]
    return [base64.b64decode(found["data"]["password"]).decode() for found in objects]


def _verdict(cluster: Cluster, request: str) -> str:
    """Return how a request for a certificate was judged."""

    def look() -> str:
        conditions = cluster.kubectl.json("get", "csr", request)["status"].get("conditions") or [{"type": ""}]
        return str(conditions[0]["type"])

    return wait_for(look, PATIENCE, "the request to be judged")


def asked_document(cluster: Cluster, machine: str) -> str:
    """Ask the join service for the machine's document; return the HTTP status."""
    certificate = paths.KUBELET_CLIENT_CERTIFICATE
    url = f"https://{cluster.address(cluster.control_plane)}:{paths.JOIN_PORT}/v1/document/{machine}"
    return cluster.run(
        machine,
        f"curl --silent --output /dev/null --write-out '%{{http_code}}' --cacert {paths.CLUSTER_CA} "
        f"--cert {certificate} --key {certificate} {url}",
    )
