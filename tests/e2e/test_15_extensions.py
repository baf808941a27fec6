"""Kubernetes extended: own resources, an aggregated API, admission webhooks; TLS verified everywhere."""

import base64
from collections.abc import Iterator

import pytest
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, KubectlError, wait_for
from tests.support.serving_certificate import a_serving_certificate
from tests.support.webhooks import wait_until_asked, webhooks


@pytest.fixture
def ponds(cluster: Cluster, kubectl: Kubectl) -> Iterator[None]:
    """A custom resource with a schema."""
    kubectl.apply(*cluster.objects("ponds"))
    kubectl.wait("crd/ponds.test.freehold.io", "condition=Established")
    yield
    kubectl("delete", "crd", "ponds.test.freehold.io", "--wait=false")


@pytest.mark.usefixtures("ponds")
def test_a_custom_resource(here: Kubectl) -> None:
    """An object of the schema is stored, one that breaks it is refused with the reason."""
    pond = {"apiVersion": "test.freehold.io/v1", "kind": "Pond", "metadata": {"name": "mill"}}
    # Discovery of a new kind takes a moment.
    wait_for(lambda: here.apply({**pond, "spec": {"depth": 3}}), 60, "the new kind")
    assert here.json("get", "pond", "mill")["spec"] == {"depth": 3, "fish": "carp"}
    for spec, reason in (
        ({"depth": 0}, "greater than or equal to 1"),
        ({"depth": "deep"}, "expected .integer.|must be of type integer"),
    ):
        with pytest.raises(KubectlError, match=reason):
            here.apply({**pond, "metadata": {"name": "bad"}, "spec": spec})
    assert [item["metadata"]["name"] for item in here.json("get", "ponds")["items"]] == ["mill"]


def test_an_aggregated_api(cluster: Cluster, kubectl: Kubectl) -> None:
    """metrics.k8s.io is served by a pod through the API server, its certificate verified."""
    kubectl.wait("apiservice/v1beta1.metrics.k8s.io", "condition=Available")
    spec = kubectl.json("get", "apiservice", "v1beta1.metrics.k8s.io")["spec"]
    assert not spec.get("insecureSkipTLSVerify")
    assert spec["caBundle"]
    items = wait_for(
        lambda: kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes").json["items"], 120, "figures"
    )
    assert {item["metadata"]["name"] for item in items} <= set(cluster.nodes)


def test_tls_is_verified_everywhere(cluster: Cluster, kubectl: Kubectl) -> None:
    """No object, unit or configuration file of ours turns verification off."""
    kinds = "apiservices,deployments,daemonsets,pods,configmaps,validatingwebhookconfigurations"
    objects = kubectl("get", kinds, "--all-namespaces", "--output=json").stdout
    for word in ('insecureSkipTLSVerify": true', "kubelet-insecure-tls", "insecure-skip-tls-verify"):
        assert word not in objects
    words = (
        "insecure-skip-tls-verify|kubelet-insecure-tls|insecureSkipTLSVerify|insecure_skip_verify|skip_verify"
    )
    places = "/etc/systemd/system /etc/freehold /etc/kubernetes /etc/containerd /etc/cni /etc/kube-flannel"
    for machine in cluster.nodes:
        assert cluster.run(machine, f"grep -rE '{words}' {places} 2>/dev/null || true") == "", machine


@pytest.fixture
def webhook(cluster: Cluster, here: Kubectl, kubectl: Kubectl) -> Iterator[str]:
    """Admission webhooks in a pod behind a Service, for ConfigMaps of this test's namespace."""
    with webhooks(cluster, here, kubectl) as name:
        yield name


@pytest.mark.usefixtures("webhook")
def test_admission_webhooks(here: Kubectl) -> None:
    """A validating webhook refuses what it should, a mutating one changes the rest; both over verified TLS."""
    wait_until_asked(here)
    good = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "good", "labels": {"colour": "green"}},
    }
    bad = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad", "labels": {"deny": "true"}}}
    here.apply(good)
    assert here.json("get", "configmap", "good")["metadata"]["labels"]["mutated-by"] == "test-webhook"
    with pytest.raises(KubectlError, match="denied by the test webhook"):
        here.apply(bad)
    assert here("get", "configmap", "bad", check=False).failed


def test_a_webhook_that_cannot_be_verified_is_not_believed(
    webhook: str, cluster: Cluster, here: Kubectl, kubectl: Kubectl
) -> None:
    """A webhook whose certificate another authority signed is not asked: the request fails closed."""
    other = base64.b64encode(a_serving_certificate(f"webhook.{webhook}.svc").authority).decode()
    kubectl.apply(*cluster.objects("webhook-configuration", namespace=webhook, authority=other))

    def refused() -> bool:
        answer = here("create", "configmap", "x", "--dry-run=server", check=False)
        return answer.failed and "x509" in answer.stderr

    wait_for(refused, 60, "an error about the certificate")
