"""A machine that joins as a real one does, over real TLS and with a key of its own, but runs no kubelet."""

import base64
import contextlib
import dataclasses
import http.client
import itertools
import json
from datetime import datetime, timezone
from typing import Any, Dict, Optional, Sequence, Tuple

from cryptography.hazmat.primitives import serialization
from tests.support.a_request import a_key, a_request
from tests.support.control_plane_on_loopback import PATIENCE, ControlPlane
from tests.support.served import Answer

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.machine.https import pinned_context
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import tokens
from freehold_bootstrap.identities import NODE_USER_PREFIX, NODES_GROUP
from freehold_controller.approver.approval_rules import CLIENT_SIGNER, SERVING_SIGNER

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CLIENT_USAGES = ("digital signature", "client auth")
SERVING_USAGES = ("digital signature", "server auth")
SOMEWHERE = "127.0.0.1"
BUSY = (429, 503)

_numbers = itertools.count(1)


def next_key() -> int:
    """Return the number of a key that no one else has (see `a_request.a_key`)."""
    return next(_numbers)


def key_pem(key: int) -> bytes:
    """Return a key's PEM."""
    return a_key(key).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def ask(
    plane: ControlPlane,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str = "",
    certificate: str = "",
    source: str = SOMEWHERE,
    timeout: float = PATIENCE,
) -> Answer:
    """Send one request to the join service from an address of loopback; `body` is bytes or becomes JSON."""
    connection = http.client.HTTPSConnection(
        plane.address,
        paths.JOIN_PORT,
        timeout=timeout,
        source_address=(source, 0),
        context=pinned_context(plane.pki.ca_pem(), certificate or None),
    )
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, {"Authorization": "Bearer " + token} if token else {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def request_object(
    pem: bytes,
    signer: str = CLIENT_SIGNER,
    usages: Sequence[str] = CLIENT_USAGES,
    name: str = "",
    spec: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """Return a CertificateSigningRequest; without a name the API server makes one. `spec` adds fields."""
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name} if name else {"generateName": "node-csr-"},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": signer,
            "usages": list(usages),
            **(spec or {}),
        },
    }


def conditions(obj: Optional[Dict[str, Any]]) -> Dict[str, str]:
    """Return a request's conditions, type -> reason."""
    found = ((obj or {}).get("status") or {}).get("conditions") or ()
    return {condition["type"]: condition.get("reason", "") for condition in found}


def settled(obj: Optional[Dict[str, Any]]) -> bool:
    """Tell whether a request was denied, or its certificate issued."""
    return "Denied" in conditions(obj) or bool(((obj or {}).get("status") or {}).get("certificate"))


class TooEarly(Exception):  # noqa: N818
    """The API server looks tokens up in what it watches, which is a moment behind."""


@dataclasses.dataclass
class Machine:
    """One machine; its methods are the steps of a join."""

    plane: ControlPlane
    node: str
    token: str = ""
    """The join token's text."""
    source: str = SOMEWHERE
    claim: str = ""
    address: str = ""
    credential: str = ""
    """Path of certificate and key, once it has one."""
    bootstrap: str = dataclasses.field(default="", repr=False)

    @classmethod
    def invited(cls, plane: ControlPlane, name: str = "machine", **options: Any) -> "Machine":
        """Return a machine with a new join token; `options` are those of `tokens.mint`."""
        node = options.pop("node", "") or plane.name(name)
        source = options.pop("source", SOMEWHERE)
        options.setdefault("addresses", (plane.node_address(),))
        token, record = tokens.mint(node, options.pop("now", None) or now(), **options)
        plane.secrets.append(token.secret)
        plane.installer.create(tokens.JOIN_TOKENS, record.to_object())
        address = options["addresses"][0] if options["addresses"] else ""
        return cls(plane, node, token.reveal(), source, "machine-id-of-" + node, address)

    def ask(self, path: str, **body: Any) -> Answer:
        """Post to the join service with the token; what it has no place for at the moment is asked again."""
        sent = {"node": self.node, "claim": self.claim, **body}
        for _ in self.plane.attempts(pause=0.3):
            answer = ask(self.plane, "POST", path, sent, token=self.token, source=self.source)
            if answer.status not in BUSY:
                return answer
        raise AssertionError("attempts end in a failure")

    def join(self) -> JoinDocument:
        """Return the document; fails when the join is refused."""
        answer = self.ask("/v1/join")
        assert answer.status == 200, answer.body
        return JoinDocument.loads(answer.body)

    def take_credential(self) -> str:
        """Return a bootstrap token; fails when it is refused."""
        answer = self.ask("/v1/credential")
        assert answer.status == 200, answer.body
        self.bootstrap = str(answer.json["token"])
        self.plane.secrets.append(self.bootstrap.split(".")[1])
        return self.bootstrap

    def first_request(self, key: int, **changes: Any) -> str:
        """Ask for the first client certificate with the bootstrap token; return the request's name."""
        pem = self.client_pem(key)
        for _ in self.plane.attempts():
            with contextlib.suppress(TooEarly):
                return as_token(self.plane, self.bootstrap, pem, **changes)
        raise AssertionError("attempts end in a failure")

    def client_pem(self, key: int) -> bytes:
        self.plane.secrets.append(key_pem(key).decode().splitlines()[1])
        return a_request(NODE_USER_PREFIX + self.node, (NODES_GROUP,), key=key)

    def serving_pem(self, key: int, *names: str) -> bytes:
        return a_request(
            NODE_USER_PREFIX + self.node, (NODES_GROUP,), names or (self.node, self.address), key=key
        )

    def certified(self, name: str, key: int) -> str:
        """Wait for the request's certificate; keep it with its key and return the path."""
        pem = issued(self.plane, name)
        path = self.plane.directory / "{}.pem".format(name)
        path.touch(mode=0o600)
        path.write_bytes(pem + key_pem(key))
        self.credential = str(path)
        return self.credential

    def joined(self) -> "Machine":
        """Go all the way: token, document, bootstrap credential, request, certificate."""
        self.join()
        self.take_credential()
        key = next_key()
        self.certified(self.first_request(key), key)
        return self

    def api(self) -> KubernetesApi:
        """Return the API as this node's kubelet reaches it."""
        return self.plane.api(self.credential)

    def document(self) -> JoinDocument:
        """Return the node's document; its certificate may have been issued this moment."""
        for _ in self.plane.attempts():
            answer = ask(self.plane, "GET", "/v1/document/" + self.node, certificate=self.credential)
            if answer.status not in BUSY:
                return JoinDocument.loads(answer.body)
        raise AssertionError("attempts end in a failure")

    def goes_live(self) -> None:
        """Report as a kubelet does at its start."""
        info = {
            "architecture": "amd64", "bootID": "b", "containerRuntimeVersion": "containerd://2", "kernelVersion": "6",
            "kubeProxyVersion": "", "kubeletVersion": "v1.37.2", "machineID": "m", "operatingSystem": "linux",
            "osImage": "x", "systemUUID": "u",
        }  # fmt: skip
        self.api().merge("/api/v1/nodes/" + self.node, {"status": {"nodeInfo": info}}, "status")


def as_token(plane: ControlPlane, token: str, pem: bytes, **changes: Any) -> str:
    """Create a request with a bootstrap token. Raises TooEarly while the API server has not seen the token."""
    try:
        return create_request(plane.api(token=token), pem, **changes)
    except ApiError as error:
        if error.status == 401:
            raise TooEarly from error
        raise


def create_request(api: KubernetesApi, pem: bytes, **changes: Any) -> str:
    """Create a request; return its name."""
    return str(api.create(REQUESTS, request_object(pem, **changes))["metadata"]["name"])


def serving_request(machine: Machine, *names: str, pem: bytes = b"") -> str:
    """Ask for a serving certificate with the node's own credential; return the request's name."""
    content = pem or machine.serving_pem(next_key(), *names)
    return create_request(machine.api(), content, signer=SERVING_SIGNER, usages=SERVING_USAGES)


def outcome(plane: ControlPlane, name: str) -> Tuple[str, str]:
    """Wait until a request is settled; return (`Approved` or `Denied`, reason)."""
    found = plane.requests.wait_for(name, settled, PATIENCE)
    return next(iter(conditions(found).items()))


def issued(plane: ControlPlane, name: str) -> bytes:
    """Wait for a request's certificate and return its PEM; fails when it is denied."""
    assert outcome(plane, name)[0] == "Approved", plane.requests.get(name)
    obj = plane.requests.get(name) or {}
    return base64.b64decode(obj["status"]["certificate"])


def status_of(api: KubernetesApi, method: str, path: str, body: Any = None) -> int:
    """Return the status of a request to the API server, whatever it is."""
    content = None if body is None else json.dumps(body).encode()
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    return api.raw(method, path, content, kind)[0]


def eventually(plane: ControlPlane, api: KubernetesApi, status: int, method: str, path: str) -> None:
    """Wait until the API server answers with that status: its authorizers learn of changes by watches."""
    for _ in plane.attempts():
        if status_of(api, method, path) == status:
            return


def now() -> datetime:
    """Return the time, aware."""
    return datetime.now(timezone.utc)
