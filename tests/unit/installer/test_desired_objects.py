"""Kubernetes objects: where they live, and whether the live one already says what we ask for."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.a_control_plane import INVENTORY

from freehold_bootstrap.rbac import path_of as path_of_trust
from freehold_bootstrap.rbac import trust_objects
from freehold_installer.config import loads
from freehold_installer.desired import dns, metrics_server
from freehold_installer.desired.objects import differing_paths, key_of_object, path_of

NAMES = st.text("abcdefghij", min_size=1, max_size=4)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text("xyz", max_size=3))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


def everything() -> list[dict[str, Any]]:
    address = str(loads(INVENTORY).config.networking.dns_address)
    return [
        *trust_objects(),
        *dns.objects(address),
        *metrics_server.objects("image:1", b"ca", b"certificate", b"key"),
    ]


@given(OBJECTS)
def test_an_object_does_not_differ_from_itself(body: dict[str, Any]) -> None:
    """What was applied and stored unchanged needs no second apply."""
    assert differing_paths(body, copy.deepcopy(body)) == []


@given(OBJECTS, OBJECTS)
def test_what_others_added_is_theirs(body: dict[str, Any], added: dict[str, Any]) -> None:
    """Fields that we do not ask for may have any value, at every depth of mappings."""

    def merged(ours: Any) -> Any:
        if not isinstance(ours, dict):
            return ours
        return {**added, **{name: merged(value) for name, value in ours.items()}}

    assert differing_paths(body, merged(body)) == []


@given(OBJECTS, st.data())
def test_a_changed_value_is_found_at_its_place(body: dict[str, Any], data: st.DataObject) -> None:
    """Another value of any field that we ask for is a difference, and the path begins with that field."""
    full = {name: value for name, value in body.items() if value}
    if not full:
        return
    name = data.draw(st.sampled_from(sorted(full)))
    live = {**copy.deepcopy(full), name: "something else"}
    found = differing_paths(full, live)
    assert found
    assert all(path.split(".")[0].split("[")[0] == name for path in found)


@given(OBJECTS)
def test_an_object_that_is_gone_differs_wherever_we_ask_for_something(body: dict[str, Any]) -> None:
    """Against nothing, every value that is not empty is missed; empty ones the API server leaves out."""
    missing = {path.split(".")[0].split("[")[0] for path in differing_paths(body, {})}
    assert missing <= set(body)
    assert {name for name, value in body.items() if isinstance(value, (int, str)) and value} <= missing


@given(OBJECTS, OBJECTS)
def test_paths_never_hold_values(wanted: dict[str, Any], live: dict[str, Any]) -> None:
    """A difference names places only: values may be secret."""
    marked = {name: f"SECRET-{value}" for name, value in wanted.items()}
    assert not any("SECRET" in path for path in differing_paths(marked, live))


@pytest.mark.parametrize(
    ("wanted", "live", "paths"),
    [
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, ["a.c"]),
        ({"a": [{"port": 53}, {"port": 54}]}, {"a": [{"port": 53}, {"port": 55}]}, ["a[1].port"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a[0]", "a[1]"]),
        ({"a": []}, {}, []),
        ({"a": {}}, {}, []),
        ({"a": ""}, {}, []),
        ({"a": False}, {}, []),
        ({"a": {"b": {}}}, {"a": 3}, ["a"]),
        ({"a": "x"}, {"a": ["x"]}, ["a"]),
        ({"a": {"b": "c"}}, {"a": {"b": "c", "uid": "1"}, "status": {}}, []),
    ],
)
def test_differences(wanted: Any, live: Any, paths: list[str]) -> None:
    """Fields, list items and lengths; what is empty equals what is absent."""
    assert differing_paths(wanted, live) == paths


@pytest.mark.parametrize(
    ("body", "path", "key"),
    [
        (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}},
            "/api/v1/namespaces/x",
            "object:Namespace x",
        ),
        (
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            },
            "/api/v1/namespaces/kube-system/services/kube-dns",
            "object:Service kube-system/kube-dns",
        ),
        (
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}},
            "/apis/apps/v1/namespaces/n/deployments/d",
            "object:Deployment n/d",
        ),
    ],
)
def test_where_objects_live(body: dict[str, Any], path: str, key: str) -> None:
    """Core and named groups, with and without a namespace."""
    assert path_of(body) == path
    assert key_of_object(body) == key


def test_all_objects_of_ours_have_a_place_and_a_name_of_their_own() -> None:
    """Every kind that we make is known, and no two objects share a path; trust agrees on where its own are."""
    bodies = everything()
    assert len({path_of(body) for body in bodies}) == len(bodies)
    assert len({key_of_object(body) for body in bodies}) == len(bodies)
    for body in trust_objects():
        assert path_of(body) == path_of_trust(body)


def test_our_objects_do_not_change_when_made_again() -> None:
    """Objects depend on their input only: the second apply has nothing to send."""
    for first, second in zip(everything(), everything(), strict=True):
        assert differing_paths(first, second) == []


def test_namespaces_come_before_what_is_in_them() -> None:
    """Applied in this order nothing is refused for want of a namespace of ours."""
    seen = {"kube-system", "default"}
    for body in trust_objects():
        if body["kind"] == "Namespace":
            seen.add(body["metadata"]["name"])
        assert body["metadata"].get("namespace", "default") in seen, key_of_object(body)


def test_metrics_server_verifies_and_is_verified() -> None:
    """No insecure flag in its Deployment; the API server has the CA of its certificate."""
    bodies = {body["kind"]: body for body in metrics_server.objects("image:1", b"ca", b"certificate", b"key")}
    text = str(bodies["Deployment"])
    assert "insecure" not in text
    assert "--kubelet-certificate-authority" in text
    assert bodies["APIService"]["spec"]["caBundle"]
    assert "insecureSkipTLSVerify" not in bodies["APIService"]["spec"]
