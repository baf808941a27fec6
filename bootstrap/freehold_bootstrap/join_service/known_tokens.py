"""Which join tokens there are, for the time that somebody guesses: a machine with a real one is not to pay for it.

The ids are read at most once a second, however many guess. Judges nothing: a known id is no right token.
"""

import threading
import time
from typing import Callable, FrozenSet, Optional

from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap.tokens import JOIN_TOKENS, join_token_name

FRESH = 1.0
"""Seconds."""


class KnownTokens:
    """Thread-safe."""

    def __init__(self, api: KubernetesApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._lock = threading.Lock()
        self._names: FrozenSet[str] = frozenset()
        self._read_at: Optional[float] = None

    def has(self, token_id: str) -> bool:
        """Tell whether there is, or was a second ago, a token of that id. Raises ApiError, OSError."""
        with self._lock:
            if self._read_at is None or self._clock() - self._read_at >= FRESH:
                listed = self._api.list(JOIN_TOKENS).get("items") or ()
                self._names = frozenset(item["metadata"]["name"] for item in listed)
                self._read_at = self._clock()
            return join_token_name(token_id) in self._names
