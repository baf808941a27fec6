"""The Kubernetes client and the fetcher, against real TLS servers on loopback."""

import base64
import hashlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from freehold_agent.contract.resources import Artifact
from freehold_agent.errors import DeliveryFailed, DigestMismatch
from freehold_agent.fetch import Fetcher
from freehold_agent.machine.https import open_pinned
from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi, NotFound
from freehold_agent.store import part_of
from freehold_agent.this_machine import ThisMachine


class Server(ThreadingHTTPServer):
    """An HTTPS server that answers what `answer(handler)` says and remembers requests."""

    daemon_threads = True

    def __init__(self, authority, answer, client_authority=None):
        self.answer = answer
        self.requests = []
        self.connections = 0
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)
        if client_authority is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            client_authority.configure_trust(self.context)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return "https://127.0.0.1:{}".format(self.server_address[1])

    def finish_request(self, request, client_address):
        self.connections += 1
        try:
            secure = self.context.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return
        try:
            Handler(secure, client_address, self)
        finally:
            secure.close()

    def handle_error(self, request, client_address):
        pass

    def stop(self):
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.close_connection = False

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.server.requests.append((self.command, self.path, dict(self.headers), self.body))
        self.server.answer(self)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status, value):
        self.send(status, json.dumps(value).encode(), Content_Type="application/json")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def authority():
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def serve(authority):
    servers = []

    def start(answer, **options):
        servers.append(Server(authority, answer, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def pem(authority):
    return authority.cert_pem.bytes().decode()


def an_api(server, authority, **options):
    return KubernetesApi(server.url, ca_pem=pem(authority), **options)


def test_verbs_use_the_right_methods_paths_and_types(serve, authority):
    """Server-side apply, merge patch and the rest are what an API server expects of them."""
    server = serve(lambda handler: handler.send_json(200, {"ok": True}))
    api = an_api(server, authority, token="secret-token")
    api.get("/api/v1/nodes/a")
    api.list("/api/v1/nodes", labelSelector="a=b", limit=None)
    api.create("/api/v1/nodes", {"a": 1})
    api.replace("/api/v1/nodes/a", {})
    api.merge("/api/v1/nodes/a", {"x": None}, subresource="status")
    api.apply("/api/v1/nodes/a", {"kind": "Node"})
    api.delete("/api/v1/nodes/a")
    seen = [(method, path, headers.get("Content-Type")) for method, path, headers, _ in server.requests]
    assert seen == [
        ("GET", "/api/v1/nodes/a", None),
        ("GET", "/api/v1/nodes?labelSelector=a%3Db", None),
        ("POST", "/api/v1/nodes", "application/json"),
        ("PUT", "/api/v1/nodes/a", "application/json"),
        ("PATCH", "/api/v1/nodes/a/status", "application/merge-patch+json"),
        ("PATCH", "/api/v1/nodes/a?fieldManager=freehold&force=true", "application/apply-patch+yaml"),
        ("DELETE", "/api/v1/nodes/a", None),
    ]
    assert all(headers["Authorization"] == "Bearer secret-token" for _, _, headers, _ in server.requests)
    assert server.connections == 1
    api.close()


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, Conflict), (403, ApiError)])
def test_errors_come_from_status_objects(serve, authority, status, kind):
    """The server's reason and message reach the caller, by the right exception."""
    answer = {"kind": "Status", "code": status, "reason": "Because", "message": "it is so"}
    api = an_api(serve(lambda handler: handler.send_json(status, answer)), authority)
    with pytest.raises(kind) as caught:
        api.get("/api/v1/nodes/a")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (status, "Because", "it is so")
    api.close()


def test_a_kept_connection_that_went_stale_is_opened_again(serve, authority):
    """A server that closes between two requests is no error."""

    def answer(handler):
        handler.send_json(200, {})
        handler.close_connection = True

    server = serve(answer)
    api = an_api(server, authority)
    api.get("/a")
    api.get("/b")
    assert [path for _, path, _, _ in server.requests] == ["/a", "/b"]
    api.close()


def test_a_server_of_another_authority_is_not_spoken_to(serve, authority):
    """TLS is verified against the given CA only."""
    server = serve(lambda handler: handler.send_json(200, {}))
    other = trustme.CA(key_type=trustme.KeyType.ECDSA)
    api = KubernetesApi(server.url, ca_pem=pem(other))
    with pytest.raises(ssl.SSLCertVerificationError):
        api.get("/")
    assert not api.healthy()
    with pytest.raises(ssl.SSLCertVerificationError):
        open_pinned(server.url + "/x", pem(other))
    assert server.requests == []


def test_a_given_stream_still_verifies_the_name_of_the_server(serve, authority):
    """Through a tunnel the certificate must name the host of the URL, not the tunnel's end."""
    server = serve(lambda handler: handler.send_json(200, {"via": "stream"}))

    def connect():
        return socket.create_connection(("127.0.0.1", server.server_address[1]))

    api = KubernetesApi("https://127.0.0.1:6443", ca_pem=pem(authority), connect=connect)
    assert api.get("/")["via"] == "stream"
    api.close()
    wrong = KubernetesApi("https://10.9.9.9:6443", ca_pem=pem(authority), connect=connect)
    with pytest.raises(ssl.SSLCertVerificationError):
        wrong.get("/")


@pytest.mark.parametrize("embedded", [True, False])
def test_a_kubeconfig_gives_server_authority_and_certificate(serve, authority, tmp_path, embedded):
    """Both forms of a JSON kubeconfig work: credentials by path and embedded."""
    server = serve(lambda handler: handler.send_json(200, {"you": "in"}), client_authority=authority)
    client = authority.issue_cert("client")
    certificate, key = client.cert_chain_pems[0].bytes(), client.private_key_pem.bytes()
    (tmp_path / "both.pem").write_bytes(certificate + key)
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    user = {"client-certificate": "both.pem", "client-key": "both.pem"}
    cluster = {"server": server.url, "certificate-authority": "ca.crt"}
    if embedded:
        user = {
            "client-certificate-data": base64.b64encode(certificate).decode(),
            "client-key-data": base64.b64encode(key).decode(),
        }
        data = base64.b64encode(authority.cert_pem.bytes()).decode()
        cluster = {"server": server.url, "certificate-authority-data": data}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    api = KubernetesApi.from_kubeconfig(str(path))
    assert api.get("/") == {"you": "in"}
    api.close()
    with pytest.raises(ValueError, match="no kubeconfig"):
        KubernetesApi.from_kubeconfig(str(tmp_path / "none"))


def test_a_watch_yields_events_and_raises_the_servers_error(serve, authority):
    """Events come line by line; an ERROR event becomes ApiError with its code."""
    events = [
        {"type": "ADDED", "object": {"n": 1}},
        {"type": "BOOKMARK", "object": {"n": 2}},
        {
            "type": "ERROR",
            "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
        },
    ]

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        handler.wfile.write(b"0\r\n\r\n")

    server = serve(answer)
    seen = []
    watch = an_api(server, authority).watch("/api/v1/nodes", "7", timeout=5, labelSelector="x")
    with pytest.raises(ApiError, match="too old") as caught:
        seen.extend((kind, item["n"]) for kind, item in watch)
    assert seen == [("ADDED", 1), ("BOOKMARK", 2)]
    assert caught.value.status == 410
    assert "resourceVersion=7" in server.requests[0][1]
    assert "timeoutSeconds=5" in server.requests[0][1]


CONTENT = bytes(range(256)) * 8000


def an_artifact(content=CONTENT):
    return Artifact("kubelet", hashlib.sha256(content).hexdigest(), len(content))


def send_range(handler, content=CONTENT):
    """Answer as the artifact service does."""
    start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
    handler.send(206 if start else 200, content[start:])


@pytest.fixture
def machine(tmp_path):
    return ThisMachine(store=str(tmp_path / "store"), hashes=str(tmp_path / "hashes.json"))


@pytest.fixture
def fetch(authority, machine):
    """Fetch one artifact from servers; closes the fetcher."""

    def run(*servers, artifact=None, patience=5.0):
        fetcher = Fetcher(
            [server.url for server in servers], pem(authority), machine=machine, patience=patience
        )
        try:
            fetcher(artifact or an_artifact())
        finally:
            fetcher.close()

    return run


def test_an_artifact_is_fetched_and_kept_under_its_digest(serve, fetch, machine):
    """The bytes arrive, verified, executable, in the store."""
    server = serve(send_range)
    fetch(server)
    path = Path(machine.store) / an_artifact().sha256
    assert path.read_bytes() == CONTENT
    assert oct(path.stat().st_mode)[-3:] == "755"
    assert server.requests[0][1] == "/v1/artifacts/" + an_artifact().sha256


def test_a_broken_transfer_resumes_where_it_stopped(serve, fetch, machine):
    """What an earlier run left is not fetched again."""
    Path(machine.store).mkdir()
    Path(part_of(an_artifact().sha256, machine.store)).write_bytes(CONTENT[:1000000])
    server = serve(send_range)
    fetch(server)
    assert server.requests[0][2]["Range"] == "bytes=1000000-"
    assert (Path(machine.store) / an_artifact().sha256).read_bytes() == CONTENT


def test_a_damaged_part_costs_one_more_transfer(serve, fetch, machine):
    """When the resumed file has another digest it is fetched from the start."""
    Path(machine.store).mkdir()
    Path(part_of(an_artifact().sha256, machine.store)).write_bytes(b"x" * 1000)
    server = serve(send_range)
    fetch(server)
    assert len(server.requests) == 2
    assert (Path(machine.store) / an_artifact().sha256).read_bytes() == CONTENT


def test_other_endpoints_are_tried(serve, fetch, machine):
    """A service that is down or busy is passed over."""
    busy = serve(lambda handler: handler.send(503, b"", Retry_After="0"))
    gone = serve(send_range)
    gone.stop()
    fetch(gone, busy, serve(send_range))
    assert (Path(machine.store) / an_artifact().sha256).exists()


def test_retry_after_is_honoured(serve, fetch):
    """A full service says when to come again, and is asked again then, not earlier."""
    answers = iter([False, True])

    def answer(handler):
        send_range(handler) if next(answers) else handler.send(503, b"", Retry_After="0.05")

    server = serve(answer)
    fetch(server)
    assert len(server.requests) == 2


def test_wrong_bytes_are_refused_with_both_digests(serve, fetch, machine):
    """A service that sends something else never gets it into the store."""
    wrong = b"y" * len(CONTENT)
    server = serve(lambda handler: handler.send(200, wrong))
    with pytest.raises(DigestMismatch, match="got " + hashlib.sha256(wrong).hexdigest()):
        fetch(server)
    assert list(Path(machine.store).iterdir()) == []


def test_when_no_service_answers_the_error_names_the_last_ones(serve, fetch):
    """The message says what each endpoint answered."""
    server = serve(lambda handler: handler.send(404, b""))
    with pytest.raises(DeliveryFailed, match="answered 404"):
        fetch(server, patience=0)
