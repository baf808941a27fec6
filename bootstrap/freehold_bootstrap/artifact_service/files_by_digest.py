"""GET and HEAD of files whose names are their SHA-256, with ranges, a few at a time.

A name is 64 hex digits or nothing: there is no path to walk. Whoever comes when all transfers are taken, or
before a file of the release has arrived, is told when to come back.
"""

import errno
import os
import re
import stat
import threading
from collections import Counter
from typing import Iterable, Optional, Tuple

from freehold_bootstrap.exchange import Exchange

PREFIX = "/v1/artifacts/"
RETRY_HEADER = "X-Freehold-Retry-Milliseconds"
"""Retry-After knows whole seconds only; a join is not to wait one for a file that arrives in 50 ms."""
COMING_MILLISECONDS = 50
BUSY_MILLISECONDS = 250

_DIGEST = re.compile("[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesByDigest:
    """One store directory; thread-safe."""

    def __init__(self, store: str, coming: Iterable[str] = (), transfers: int = 8) -> None:
        """`coming`: digests of the release that may still be on their way into the store."""
        self._store = store
        self._coming = frozenset(coming)
        self._transfers = transfers
        self._per_source = max(1, transfers // 2)
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def answer(self, exchange: Exchange) -> None:
        """Answer one request."""
        if exchange.method not in ("GET", "HEAD"):
            exchange.refuse(405, "method", "files are only read here", {"Allow": "GET, HEAD"})
        elif exchange.path == "/healthz":
            exchange.answer(200, b"ok\n", {"Content-Type": "text/plain"})
        elif exchange.path.startswith(PREFIX) and _DIGEST.fullmatch(exchange.path[len(PREFIX) :]):
            self._file(exchange, exchange.path[len(PREFIX) :])
        else:
            exchange.refuse(404, "no-route", "there is nothing here; files are at {}SHA256".format(PREFIX))

    def _file(self, exchange: Exchange, digest: str) -> None:
        try:
            descriptor = os.open(os.path.join(self._store, digest), _OPEN)
        except OSError as error:
            # A link (ELOOP) is as good as nothing; so is what we may not read.
            if error.errno == errno.ENOENT and digest in self._coming:
                _later(exchange, "coming", "the file is on its way to this machine", COMING_MILLISECONDS)
            else:
                exchange.refuse(404, "unknown-digest", "no file of this digest is here")
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                exchange.refuse(404, "unknown-digest", "no file of this digest is here")
            elif exchange.method == "HEAD":
                self._send(exchange, descriptor, digest, status.st_size)
            elif not self._enter(exchange.source):
                _later(exchange, "busy", "all transfers are taken", BUSY_MILLISECONDS)
            else:
                try:
                    self._send(exchange, descriptor, digest, status.st_size)
                finally:
                    self._leave(exchange.source)
        finally:
            os.close(descriptor)

    def _send(self, exchange: Exchange, descriptor: int, digest: str, size: int) -> None:
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": '"{}"'.format(digest),
            "Cache-Control": "public, max-age=31536000, immutable",
        }
        wanted = _range(exchange.header("Range"), size)
        if wanted is None:
            exchange.refuse(
                416, "range", "the file ends before that", {"Content-Range": "bytes */{}".format(size)}
            )
            return
        first, end = wanted
        code = 206 if exchange.header("Range") and (first, end) != (0, size) else 200
        if code == 206:
            headers["Content-Range"] = "bytes {}-{}/{}".format(first, end - 1, size)
        exchange.begin(code, end - first, headers)
        if exchange.method == "HEAD":
            return
        buffer = memoryview(bytearray(min(_CHUNK, max(1, end - first))))
        while first < end:
            count = os.preadv(descriptor, [buffer[: end - first]], first)
            if not count:
                exchange.abort()  # it became shorter: the client sees a broken connection, never wrong bytes
                return
            exchange.write(buffer[:count])
            first += count

    def _enter(self, source: str) -> bool:
        """Take a transfer; one source may have half of them, so that it cannot keep all others out."""
        with self._lock:
            if sum(self._running.values()) >= self._transfers or self._running[source] >= self._per_source:
                return False
            self._running[source] += 1
            return True

    def _leave(self, source: str) -> None:
        with self._lock:
            self._running[source] -= 1
            if not self._running[source]:
                del self._running[source]


def _later(exchange: Exchange, reason: str, message: str, milliseconds: int) -> None:
    exchange.refuse(503, reason, message, {"Retry-After": "1", RETRY_HEADER: str(milliseconds)})


def _range(header: str, size: int) -> Optional[Tuple[int, int]]:
    """Return (first, end) of what is asked for; all for a header we do not follow; None: nothing of it exists."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(0) == "bytes=-":
        return 0, size
    first_text, last_text = match.groups()
    if not first_text:
        length = min(int(last_text), size)
        return (size - length, size) if length else None
    first = int(first_text)
    end = min(int(last_text) + 1, size) if last_text else size
    if last_text and int(last_text) < first:
        return 0, size  # not a valid range: RFC 9110 says to ignore it
    return (first, end) if first < size else None
