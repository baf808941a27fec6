"""Rights: what our programs and nodes may do is exactly what these objects say, and it is little."""

import json
from pathlib import Path
from typing import Any, Dict, List

from freehold_bootstrap import rbac
from freehold_bootstrap.admission_policies import admission_policies

GOLDEN = Path(__file__).parents[2] / "contract" / "golden" / "system-nodes-rights.json"


def rules(obj: Dict[str, Any]) -> List[Dict[str, List[str]]]:
    found: List[Dict[str, List[str]]] = obj.get("rules", [])
    return found


def test_rights_of_nodes_are_the_golden_ones() -> None:
    """Whoever widens what a worker's root may do has to change the golden file, in plain sight."""
    assert rbac.rights_of("system:nodes") == json.loads(GOLDEN.read_text())


def test_nodes_have_no_right_on_what_is_secret() -> None:
    """Nothing we give nodes touches pods, claims, volumes, secrets or requests for certificates."""
    touched = {resource for rule in rbac.rights_of("system:nodes") for resource in rule["resources"]}
    assert touched == {"nodes", "nodes/status", "services", "endpointslices", "servicecidrs"}


def test_no_wildcards() -> None:
    """No rule of ours says `*`."""
    for obj in rbac.trust_objects():
        assert "*" not in json.dumps(rules(obj)), obj["metadata"]["name"]


def test_nobody_of_ours_may_raise_rights() -> None:
    """Only administrators write roles or impersonate; our programs cannot give themselves anything."""
    for obj in rbac.trust_objects():
        for rule in rules(obj):
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if rule["apiGroups"] == [rbac.RBAC]:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_the_join_service_reads_no_secret_outside_its_namespace() -> None:
    """Network-facing, it writes bootstrap tokens without being able to read any Secret of kube-system."""
    for obj in rbac.trust_objects():
        if obj["metadata"]["name"] != "freehold:join" or not rules(obj):
            continue
        place = obj["metadata"].get("namespace", "everywhere")
        verbs = {verb for rule in rules(obj) if "secrets" in rule["resources"] for verb in rule["verbs"]}
        expected = {
            "freehold-nodes": {"get", "list", "update"},
            "kube-system": {"create", "delete"},
            "everywhere": set(),
        }
        assert verbs == expected[place]


def test_every_policy_fails_closed_and_is_bound() -> None:
    """A policy that errs denies, each is bound to deny, and each refusal is `Forbidden`."""
    objects = admission_policies()
    policies = [obj for obj in objects if obj["kind"] == "ValidatingAdmissionPolicy"]
    bound = {obj["spec"]["policyName"] for obj in objects if obj["kind"].endswith("Binding")}
    for policy in policies:
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert {item["reason"] for item in policy["spec"]["validations"]} == {"Forbidden"}
        assert policy["metadata"]["name"] in bound


def test_every_object_has_a_path_and_comes_after_its_namespace() -> None:
    """The list can be applied from the top."""
    paths = [rbac.path_of(obj) for obj in rbac.trust_objects()]
    assert len(paths) == len(set(paths))
    assert paths[0] == "/api/v1/namespaces/freehold-nodes"


def test_bindings_name_roles_that_exist() -> None:
    """Each binding refers to a role of ours or to a standard one of Kubernetes."""
    objects = rbac.trust_objects()
    known = {(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in objects}
    standard = {"system:node-bootstrapper", "system:kubelet-api-admin", "cluster-admin"}
    for obj in objects:
        if "roleRef" in obj:
            reference = obj["roleRef"]
            key = (reference["kind"], obj["metadata"].get("namespace"), reference["name"])
            assert key in known or reference["name"] in standard, obj["metadata"]["name"]
