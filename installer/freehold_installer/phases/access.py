"""What a cluster of ours holds in its API: rights, policies, the DNS Service, metrics-server, the user's manifests.

Reached through the SSH connection of a control plane. The first credential is a short-lived one that is used only to
create the bindings of the others; everything later is done with those.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import stamina
import yaml

from freehold_agent.contract import paths
from freehold_agent.contract.resources import Change
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest
from freehold_bootstrap.rbac import trust_objects
from freehold_installer.config import Inventory
from freehold_installer.desired import dns, dns_deployment, local_path, metrics_server
from freehold_installer.desired.objects import differing_paths, key_of_object, path_of
from freehold_installer.engine.machine import Machine
from freehold_installer.errors import InputError, StepError
from freehold_installer.phases import trust

SETTINGS_NAME = "cluster-settings"
FORBIDDEN, INVALID = 403, 422


class _ThroughMachine(KubernetesApi):
    """When the SSH connection goes, that is what is said, not what TLS inside of it makes of that."""

    def __init__(self, machine: Machine, server: str, **options: Any) -> None:
        # By its loopback address: at the machine's own one connections wait while the API server starts.
        super().__init__(server, connect=lambda: machine.api_socket("127.0.0.1", paths.API_PORT), **options)
        self._machine = machine

    def raw(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        try:
            return super().raw(method, path, body, content_type)
        except OSError as error:
            if self._machine.connected:
                raise
            raise self._machine.lost("reaching its API server") from error


def api_of(
    machine: Machine, address: str, pki: PkiDirectory, request: CertificateRequest, *, certificate: str = ""
) -> KubernetesApi:
    """Return a client for the API server on this machine, over its SSH connection, as the given identity.

    `certificate` is a file with certificate and key that is used instead of the stored pair.
    """
    host = f"[{address}]" if ":" in address else address
    return _ThroughMachine(
        machine,
        f"https://{host}:{paths.API_PORT}",
        ca_pem=pki.ca_pem(),
        client_certificate=certificate or pki.certificate_path(request),
        client_key=None if certificate else pki.key_path(request),
    )


@contextlib.contextmanager
def first_api(machine: Machine, address: str, pki: PkiDirectory) -> Iterator[KubernetesApi]:
    """Yield a client with the short-lived credential of a new cluster."""
    with pki.short_lived(trust.INSTALLER_BOOTSTRAP) as certificate:
        api = api_of(machine, address, pki, trust.INSTALLER_BOOTSTRAP, certificate=certificate)
        try:
            yield api
        finally:
            api.close()


def base_objects(settings: ClusterSettings, dns_objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what every cluster needs beside trust: the settings of nodes and cluster DNS."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": SETTINGS_NAME, "namespace": NAMESPACE},
            "data": {"settings": json.dumps(settings.to_json(), sort_keys=True)},
        },
        *dns_objects,
    ]


def superseded_in(api: KubernetesApi, inventory: Inventory) -> list[Change]:
    """Return the deletions of what the other kind of cluster DNS left. Raises ApiError, OSError."""
    found = []
    for body in _superseded(inventory):
        with contextlib.suppress(NotFound):
            api.get(path_of(body))
            found.append(Change(key_of_object(body), "delete", {}, None))
    return found


def remove_superseded(
    api: KubernetesApi, machine: str, inventory: Inventory, planned: Sequence[Change]
) -> None:
    """Remove what the other kind of cluster DNS left, if the plan says that there is any. Raises StepError."""
    bodies = _superseded(inventory)
    if not {key_of_object(body) for body in bodies} & {c.key for c in planned if c.action == "delete"}:
        return
    try:
        if inventory.config.control_plane.coredns.embedded:
            # First: without a selector nobody keeps them, and they name pods that go now.
            collection = path_of(dns.endpoint_slice()).rpartition("/")[0]
            left = api.list(collection, labelSelector=dns.SLICES_OF_PODS)["items"]
            paths_left = [f"{collection}/{found['metadata']['name']}" for found in left]
        else:
            paths_left = []
        for path in [*paths_left, *map(path_of, bodies)]:
            with contextlib.suppress(NotFound):
                api.delete(path, propagationPolicy="Background")
    except (ApiError, OSError) as error:
        raise StepError(machine, "remove the other kind of CoreDNS", str(error)) from error


def _superseded(inventory: Inventory) -> list[dict[str, Any]]:
    if inventory.config.control_plane.coredns.embedded:
        return dns_deployment.superseded()
    return [dns.endpoint_slice()]


def addon_objects(inventory: Inventory, pki: PkiDirectory, image: str) -> list[dict[str, Any]]:
    """Return the objects of add-ons; `image` is metrics-server's."""
    deploy = inventory.config.deploy
    objects: list[dict[str, Any]] = []
    if deploy.local_path_provisioner.enabled:
        objects += local_path.objects(deploy.local_path_provisioner)
    if deploy.metrics_server.enabled:
        missing = trust.METRICS_SERVER.name in pki.missing([trust.METRICS_SERVER])
        pair = None if missing else pki.issued(trust.METRICS_SERVER)
        objects += metrics_server.objects(
            image,
            pki.ca_pem().encode() if pair else b"",
            pair.certificate_pem if pair else b"",
            pair.key_pem if pair else b"",
        )
    return objects


def manifests(inventory: Inventory) -> list[dict[str, Any]]:
    """Return the objects of the inventory's manifest files. Raises InputError naming file and line."""
    objects = []
    for file in inventory.manifests:
        try:
            documents = list(yaml.safe_load_all(file.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file}: not a manifest: {error}") from error
        for number, document in enumerate(documents, 1):
            if document is None:
                continue
            if not isinstance(document, dict) or not {"apiVersion", "kind", "metadata"} <= set(document):
                raise InputError(
                    f"{file}: document {number} is no Kubernetes object (apiVersion, kind and metadata are needed)"
                )
            objects.append(document)
    return objects


def all_trust_objects() -> list[dict[str, Any]]:
    """Return namespace, rights and policies in the order to apply them."""
    return list(trust_objects())


def changes_in(api: KubernetesApi, objects: Sequence[dict[str, Any]]) -> list[tuple[Change, dict[str, Any]]]:
    """Return which objects are missing or differ, each with what to apply. Writes nothing.

    Raises ApiError, OSError.
    """
    found = []
    for body in objects:
        key = key_of_object(body)
        try:
            live = api.get(path_of(body))
        except NotFound:
            found.append((Change(key, "create", None, {}), body))
            continue
        differing = differing_paths(body, live)
        if differing:
            found.append((Change(key, "update", {"differs": differing}, {}), body))
    return found


def all_created(objects: Sequence[dict[str, Any]]) -> list[Change]:
    """Return the changes for a cluster that does not exist yet."""
    return [Change(key_of_object(body), "create", None, {}) for body in objects]


def apply(api: KubernetesApi, machine: str, bodies: Sequence[dict[str, Any]]) -> None:
    """Apply objects in order. A refusal is retried for 3 s: rights just granted take a moment to be known.

    Raises StepError naming the object.
    """
    for body in bodies:
        try:
            for attempt in stamina.retry_context(
                on=_not_yet_allowed, attempts=None, timeout=3.0, wait_initial=0.02, wait_max=0.2
            ):
                with attempt:
                    _apply(api, body)
        except (ApiError, OSError) as error:
            raise StepError(machine, f"apply {key_of_object(body)}", str(error)) from error


def _apply(api: KubernetesApi, body: dict[str, Any]) -> None:
    """Apply one object; a StorageClass that cannot be changed is made anew: its volumes do not depend on it."""
    try:
        api.apply(path_of(body), body)
    except ApiError as error:
        if body["kind"] != "StorageClass" or error.status != INVALID:
            raise
        api.delete(path_of(body))
        api.apply(path_of(body), body)


def is_bound(api: KubernetesApi) -> bool:
    """Say whether this identity has its rights yet. Raises OSError, ApiError other than a refusal."""
    try:
        api.get(f"/api/v1/namespaces/{NAMESPACE}")
    except NotFound:
        return True
    except ApiError as error:
        if error.status == FORBIDDEN:
            return False
        raise
    return True


def _not_yet_allowed(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.status == FORBIDDEN
