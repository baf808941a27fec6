"""Admission webhooks of a test: the echo server behind a Service, both kinds, for ConfigMaps of one namespace."""

import base64
import contextlib
from collections.abc import Iterator

from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.serving_certificate import a_serving_certificate
from tests.support.whole import PATIENCE


@contextlib.contextmanager
def webhooks(cluster: Cluster, here: Kubectl, kubectl: Kubectl) -> Iterator[str]:
    """Have them in the namespace of `here` while inside; yield its name."""
    name = here.namespace
    issued = a_serving_certificate(f"webhook.{name}.svc")
    files = {"tls.crt": issued.certificate, "tls.key": issued.key}
    here.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "webhook"},
            "data": {key: base64.b64encode(value).decode() for key, value in files.items()},
        }
    )
    here.apply(*cluster.objects("webhook"))
    here.rolled_out("deployment/webhook")
    bundle = base64.b64encode(issued.authority).decode()
    configurations = list(cluster.objects("webhook-configuration", namespace=name, authority=bundle))
    kubectl.apply(*configurations)
    try:
        yield name
    finally:
        for configuration in configurations:
            kubectl("delete", configuration["kind"], name)


def wait_until_asked(here: Kubectl) -> None:
    """Return once the mutating webhook changes what is created: new configurations take a second or so."""

    def asked() -> bool:
        answer = here("create", "configmap", "asked", "--dry-run=server", "--output=json")
        labels: dict[str, str] = answer.json["metadata"].get("labels", {})
        return labels.get("mutated-by") == "test-webhook"

    wait_for(asked, PATIENCE, "the webhooks in use")
