"""Every file of the store is read and hashed once a day, one at a time, each at its own time of the day.

A byte that changed behind the file system's back (a bad disk, a restored snapshot with its old times) has no new ctime:
the hash cache would believe in it for ever.
"""

import hashlib
import time
from typing import Callable, Optional, Sequence

from freehold_agent.contract import paths
from freehold_agent.contract.resources import Artifact
from freehold_agent.store import HashCache, hash_file, path_of

DAY = 86400.0


class Rehash:
    """Whose turn it is follows from the clock and the node's name, so that nodes do not all read at once."""

    def __init__(self, node: str, now: Callable[[], float] = time.time, root: str = "") -> None:
        self._offset = int(hashlib.sha256(node.encode()).hexdigest()[:8], 16) % DAY
        self._now = now
        self._root = root
        self._turn: Optional[int] = None

    def next(self, artifacts: Sequence[Artifact]) -> Optional[Artifact]:
        """Return the file whose turn has come since the last call; none at the first, after a start."""
        if not artifacts:
            return None
        turn = int((self._now() + self._offset) * len(artifacts) / DAY)
        before, self._turn = self._turn, turn
        return None if before is None or before == turn else artifacts[turn % len(artifacts)]

    def check(self, artifacts: Sequence[Artifact]) -> Optional[Artifact]:
        """Read the file whose turn it is; return it when it is damaged, and have the next look know. Raises OSError."""
        artifact = self.next(artifacts)
        if artifact is None:
            return None
        path = self._root + path_of(artifact.sha256)
        try:
            digest = hash_file(path)
        except FileNotFoundError:  # the next look sees it
            return None
        if digest == artifact.sha256:
            return None
        HashCache(self._root + paths.HASHES).remember({path: digest})
        return artifact
