"""The join document as older and newer agents see it: version 1 stays readable and means the same.

The golden file was written by the release that introduced version 1. Never regenerate it: a change that breaks
this test needs a new version of the document.
"""

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.join_document import BootstrapCredential, DocumentError, JoinDocument, Network

GOLDEN = Path(__file__).parent / "golden" / "join-document-v1.json"

DOCUMENT = JoinDocument(
    cluster="lab",
    node="w1",
    node_uid="6f1e1a0e-0d35-4a8c-9d7b-2f6f0f1f7a55",
    addresses=("10.0.0.3", "fd00::3"),
    endpoints=("https://10.0.0.2:6443",),
    artifact_endpoints=("https://10.0.0.2:6445",),
    join_endpoints=("https://10.0.0.2:6444",),
    ca_pem="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    network=Network(
        pod_cidrs=("10.244.0.0/16",),
        service_cidrs=("10.96.0.0/12",),
        node_pod_cidrs=("10.244.1.0/24",),
        dns_addresses=("10.96.0.10",),
        domain="cluster.local",
        backend="host-gw",
        flannel=True,
        kube_proxy=False,
    ),
    manifest=Manifest(
        "1.37.2",
        "amd64",
        (
            ArtifactEntry("bin/kubelet", "a" * 64, 12345678, ("node",), "kubernetes", "1.37.2"),
            ArtifactEntry(
                "images/pause.tar", "b" * 64, 4321, ("node",), "pause", "1", "freehold.local/pause:1"
            ),
        ),
        "c" * 64,
    ),
    control_plane=True,
    kubelet={
        "maxPods": 200,
        "evictionHard": {"memory.available": "100Mi"},
        "enforceNodeAllocatable": ["pods"],
    },
    registries={"docker.io": {"endpoints": ["https://mirror.example:5000"], "caPem": "PEM"}},
    generation=7,
    labels={"node-role.kubernetes.io/control-plane": ""},
    taints=({"key": "gpu", "value": "yes", "effect": "NoSchedule"},),
)


def golden() -> Dict[str, Any]:
    data: Dict[str, Any] = json.loads(GOLDEN.read_text())
    return data


def test_the_golden_document_is_read_as_it_was_meant() -> None:
    """Every field of a version 1 document keeps its meaning."""
    assert JoinDocument.loads(GOLDEN.read_bytes()) == DOCUMENT


def test_the_same_document_is_written_as_the_golden_one() -> None:
    """What we write today an agent of the first release can read: all its fields are there, unchanged."""
    written = json.loads(DOCUMENT.dumps())
    assert {name: written.get(name) for name in golden()} == golden()


def test_fields_of_a_later_release_are_left_alone() -> None:
    """New fields, here or in the network, do not stop an older agent."""
    data = golden()
    data["later"] = {"x": 1}
    data["network"]["later"] = True
    assert JoinDocument.from_json(data) == DOCUMENT


def test_optional_fields_have_their_defaults() -> None:
    """A document without what came with a default is complete."""
    data = golden()
    for name in ("kubelet", "registries", "labels", "taints", "control_plane", "generation", "credential"):
        data.pop(name, None)
    document = JoinDocument.from_json(data)
    assert (document.control_plane, document.generation, document.taints) == (False, 1, ())


@pytest.mark.parametrize("missing", ["node", "node_uid", "endpoints", "ca_pem", "network", "manifest"])
def test_a_document_without_what_it_needs_is_refused(missing: str) -> None:
    """An incomplete document is one clear error before anything is touched."""
    data = golden()
    del data[missing]
    with pytest.raises(DocumentError, match="incomplete"):
        JoinDocument.from_json(data)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_refused_by_number(version: object) -> None:
    """An agent says which version it knows instead of guessing."""
    with pytest.raises(DocumentError, match="version"):
        JoinDocument.from_json({**golden(), "version": version})


def test_no_secret_travels_in_a_document() -> None:
    """The credential has a type of its own, which does not show it."""
    assert not [name for name in golden() if "token" in name or "secret" in name or "key" in name]
    credential = BootstrapCredential.from_json({"token": "abcdef.0123456789abcdef", "expires": "soon"})
    assert "0123456789abcdef" not in repr(credential)
    assert BootstrapCredential.from_json(None) is None
