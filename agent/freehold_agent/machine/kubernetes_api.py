"""The only client of the Kubernetes API, for all programs: plain JSON over verified TLS.

Knows verbs, paths and Status errors; what objects mean is for its callers.
"""

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

from freehold_agent.machine.files import read_json
from freehold_agent.machine.https import pinned_context

Object = Dict[str, Any]
Connect = Callable[[], socket.socket]

_STALE = (
    http.client.RemoteDisconnected,
    http.client.CannotSendRequest,
    ConnectionError,
    # The server ended TLS while the connection was idle: seen only when we write.
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


class ApiError(Exception):
    """The API server answered with an error Status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__("{} ({} {})".format(message, status, reason))
        self.status = status
        self.reason = reason
        self.message = message


class NotFound(ApiError):  # noqa: N818
    """There is no such object."""


class Conflict(ApiError):  # noqa: N818
    """The object exists already, or changed since it was read."""


class KubernetesApi:
    """One API server. Thread-safe: each thread keeps one connection alive."""

    def __init__(
        self,
        server: str,
        *,
        ca_pem: str,
        client_certificate: Optional[str] = None,
        client_key: Optional[str] = None,
        token: Optional[str] = None,
        connect: Optional[Connect] = None,
        timeout: float = 10.0,
    ) -> None:
        """`server` is `https://host:port`, whose host the certificate must name, also through `connect`.

        `client_certificate` is the path of a PEM (with or without the key), read again at each connection, so
        that rotation is seen. `connect` returns a ready byte stream instead of TCP. `timeout` in seconds.
        """
        parts = urllib.parse.urlsplit(server)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("API server must be https://host:port, not " + repr(server))
        self._host = parts.hostname
        self._port = parts.port or 443
        self._ca_pem = ca_pem
        self._client = (client_certificate, client_key)
        self._token = token
        self._connect = connect
        self._timeout = timeout
        self._local = threading.local()

    @classmethod
    def from_kubeconfig(cls, path: str, **options: Any) -> "KubernetesApi":
        """Return a client for the current context of a JSON kubeconfig. Raises OSError, ValueError."""
        config = read_json(path)
        if not isinstance(config, dict):
            raise ValueError("no kubeconfig at " + path)  # noqa: TRY004
        try:
            context = _named(config["contexts"], config["current-context"], "context")
            cluster = _named(config["clusters"], context["cluster"], "cluster")
            user = _named(config.get("users") or [], context["user"], "user")
            base = os.path.dirname(os.path.abspath(path))
            authority = _text(cluster, "certificate-authority", base)
            if authority is None:
                raise ValueError("names no certificate authority")
            if "client-certificate-data" in user:
                options["client_certificate"] = _EmbeddedPair(user)
            elif "client-certificate" in user:
                options["client_certificate"] = os.path.join(base, user["client-certificate"])
                key = user.get("client-key")
                options["client_key"] = os.path.join(base, key) if key else None
            if "token" in user:
                options["token"] = user["token"]
            return cls(cluster["server"], ca_pem=authority, **options)
        except (KeyError, StopIteration, ValueError) as error:
            raise ValueError("kubeconfig {}: {}".format(path, error)) from error

    def get(self, path: str) -> Object:
        """Return one object. Raises NotFound, ApiError, OSError."""
        return self._json("GET", path)

    def list(self, path: str, **query: Any) -> Object:
        """Return a list object (`items`, `metadata.resourceVersion`). Raises ApiError, OSError."""
        return self._json("GET", path + _encode(query))

    def create(self, path: str, obj: Mapping[str, Any]) -> Object:
        """Create in a collection; return the object as stored. Raises Conflict when it exists, ApiError."""
        return self._json("POST", path, obj)

    def replace(self, path: str, obj: Mapping[str, Any]) -> Object:
        """Replace one object. Raises Conflict when its resourceVersion is old, NotFound, ApiError."""
        return self._json("PUT", path, obj)

    def merge(self, path: str, patch: Mapping[str, Any], subresource: str = "") -> Object:
        """Apply a JSON merge patch to an object or its subresource. Raises NotFound, Conflict, ApiError."""
        target = path + ("/" + subresource if subresource else "")
        return self._json("PATCH", target, patch, "application/merge-patch+json")

    def apply(
        self, path: str, obj: Mapping[str, Any], field_manager: str = "freehold", force: bool = True
    ) -> Object:
        """Apply an object server-side at its own path. Raises Conflict (not with `force`), ApiError."""
        query = _encode({"fieldManager": field_manager, "force": "true" if force else "false"})
        return self._json("PATCH", path + query, obj, "application/apply-patch+yaml")

    def delete(self, path: str, **query: Any) -> Object:
        """Delete one object. Raises NotFound, ApiError."""
        return self._json("DELETE", path + _encode(query))

    def watch(
        self, path: str, resource_version: str = "", timeout: float = 300, **query: Any
    ) -> Iterator[Tuple[str, Object]]:
        """Yield (event type, object) until the server ends the watch after `timeout` seconds.

        Bookmarks are yielded too. Raises ApiError for an ERROR event (410: list again), OSError when the
        connection breaks. Uses a connection of its own, closed with the generator.
        """
        query.update({"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": max(1, int(timeout))})
        if resource_version:
            query["resourceVersion"] = resource_version
        connection = self._open(timeout + self._timeout)
        try:
            connection.request("GET", path + _encode(query), headers=self._headers(None))
            response = connection.getresponse()
            if response.status != 200:
                raise _error(response.status, response.read())
            while True:
                line = response.readline()
                if not line:
                    return
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise _error(int(status.get("code", 500)), json.dumps(status).encode())
                yield event["type"], event["object"]
        except http.client.HTTPException as error:
            raise ConnectionError("watch of {} broke: {!r}".format(path, error)) from error
        finally:
            connection.close()

    def healthy(self, path: str = "/readyz") -> bool:
        """Say whether the server answers `path` with 200; never raises for a server that is down."""
        try:
            return self.raw("GET", path)[0] == 200
        except OSError:
            return False

    def wait_until_healthy(self, timeout: float, path: str = "/readyz", interval: float = 0.05) -> None:
        """Return when the server is ready. Raises TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.healthy(path):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    "{}:{} did not become ready within {:g} s".format(self._host, self._port, timeout)
                )
            time.sleep(interval)

    def raw(
        self, method: str, path: str, body: Optional[bytes] = None, content_type: str = "application/json"
    ) -> Tuple[int, bytes]:
        """Send one request; return status and body. Raises OSError (ConnectionError for broken HTTP)."""
        connection = getattr(self._local, "connection", None)
        fresh = connection is None
        while True:
            if connection is None:
                connection = self._open(self._timeout)
                self._local.connection = connection
            try:
                connection.request(method, path, body=body, headers=self._headers(body and content_type))
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = self._local.connection = None
                # A kept connection that the server closed meanwhile: once more on a new one. Names of objects
                # are ours: a request that did get through shows itself as a conflict, not as a second object.
                if fresh or not isinstance(error, _STALE):
                    if isinstance(error, http.client.HTTPException):
                        raise ConnectionError("{}: {!r}".format(self._host, error)) from error
                    raise
                fresh = True

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _json(
        self,
        method: str,
        path: str,
        obj: Optional[Mapping[str, Any]] = None,
        content_type: str = "application/json",
    ) -> Object:
        body = None if obj is None else json.dumps(obj).encode()
        status, answer = self.raw(method, path, body, content_type)
        if status >= 300:
            raise _error(status, answer)
        result: Object = json.loads(answer) if answer else {}
        return result

    def _headers(self, content_type: Optional[Any]) -> Dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "freehold"}
        if content_type:
            headers["Content-Type"] = str(content_type)
        if self._token:
            headers["Authorization"] = "Bearer " + self._token
        return headers

    def _open(self, timeout: float) -> http.client.HTTPConnection:
        certificate, key = self._client
        if isinstance(certificate, _EmbeddedPair):
            with certificate.on_disk() as path:
                context = pinned_context(self._ca_pem, path)
        else:
            context = pinned_context(self._ca_pem, certificate, key)
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        if self._connect is None:
            connection.connect()
            if connection.sock is not None:
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            stream = self._connect()
            stream.settimeout(timeout)
            connection.sock = context.wrap_socket(stream, server_hostname=self._host)
        return connection


class _EmbeddedPair:
    """A certificate and key that stand in the kubeconfig itself; ssl can only read them from a file."""

    def __init__(self, user: Mapping[str, str]) -> None:
        parts = [user["client-certificate-data"], user.get("client-key-data", "")]
        self._pem = b"".join(base64.b64decode(part) for part in parts)

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[str]:
        import tempfile  # the resident agent never comes here

        with tempfile.NamedTemporaryFile(prefix="freehold-") as stream:  # created 0600
            stream.write(self._pem)
            stream.flush()
            yield stream.name


def _named(entries: Any, name: str, kind: str) -> Dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            content: Dict[str, Any] = entry[kind]
            return content
    raise ValueError("no {} named {!r}".format(kind, name))


def _text(entry: Mapping[str, str], field: str, base: str) -> Optional[str]:
    """Return what a kubeconfig holds in `field-data` or in the file named by `field`."""
    if field + "-data" in entry:
        return base64.b64decode(entry[field + "-data"]).decode()
    if field in entry:
        with open(os.path.join(base, entry[field]), encoding="utf-8") as stream:
            return stream.read()
    return None


def _encode(query: Mapping[str, Any]) -> str:
    present = {name: value for name, value in query.items() if value is not None}
    return "?" + urllib.parse.urlencode(present) if present else ""


def _error(status: int, body: bytes) -> ApiError:
    reason, message = "", body.decode("utf-8", "replace").strip()[:500]
    with contextlib.suppress(ValueError):
        answer = json.loads(body)
        if isinstance(answer, dict) and answer.get("kind") == "Status":
            reason, message = answer.get("reason", ""), answer.get("message", "")
    kind = {404: NotFound, 409: Conflict}.get(status, ApiError)
    return kind(status, reason or http.client.responses.get(status, ""), message)
