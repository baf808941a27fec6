"""A listener on loopback with real TLS, and a client that speaks to it; both end with the test."""

import http.client
import json
import ssl
import threading
from typing import Any, Dict, Optional

from freehold_bootstrap.listener import Limits, Listener, server_context


class Served:
    """A running listener."""

    def __init__(
        self, pki: Any, request: Any, answer: Any, *, mutual: bool = True, limits: Optional[Limits] = None
    ) -> None:
        authority = pki.path + "/ca.crt" if mutual else ""
        context = server_context(pki.certificate_path(request), pki.key_path(request), authority)
        self.listener = Listener("127.0.0.1", 0, context, answer, limits)
        self.port = self.listener.port
        self._thread = threading.Thread(target=self.listener.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.listener.stop()
        self._thread.join(5)
        assert not self._thread.is_alive()


class Answer:
    """Status, headers and body of one response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Dict[str, Any]:
        result: Dict[str, Any] = json.loads(self.body)
        return result

    @property
    def reason(self) -> str:
        return str(self.json["reason"])


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: Any = None, headers: Optional[Dict[str, str]] = None
    ) -> Answer:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, path, content, headers or {})
        return Answer(self._connection.getresponse())
