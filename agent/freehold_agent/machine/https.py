"""HTTPS that trusts one certificate authority and nothing else: no system store, no proxy, no exception."""

import http.client
import ssl
import urllib.parse
from typing import Mapping, Optional, Tuple


def pinned_context(
    ca_pem: str, client_certificate: Optional[str] = None, client_key: Optional[str] = None
) -> ssl.SSLContext:
    """Return a client context that verifies chain and name against `ca_pem` only. Raises OSError.

    `client_certificate` is the path of a PEM file, with the key in it or in the file `client_key`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    if client_certificate:
        context.load_cert_chain(client_certificate, client_key)
    return context


def connect_pinned(url: str, ca_pem: str, timeout: float = 10.0) -> http.client.HTTPSConnection:
    """Return a connection (not yet open) to the host and port of an https URL; `timeout` in seconds."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("not an https URL: " + repr(url))
    return http.client.HTTPSConnection(
        parts.hostname, parts.port or 443, timeout=timeout, context=pinned_context(ca_pem)
    )


def open_pinned(
    url: str,
    ca_pem: str,
    *,
    method: str = "GET",
    headers: Optional[Mapping[str, str]] = None,
    body: Optional[bytes] = None,
    timeout: float = 10.0,
) -> Tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
    """Send one request; the caller reads the response and closes the connection. `timeout` in seconds.

    Raises OSError (with ssl.SSLError below it) when the server cannot be reached or is not who it should be,
    http.client.HTTPException when it does not speak HTTP. The status is for the caller to judge.
    """
    connection = connect_pinned(url, ca_pem, timeout)
    parts = urllib.parse.urlsplit(url)
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        return connection, connection.getresponse()
    except BaseException:
        connection.close()
        raise
