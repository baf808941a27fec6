"""Between two whole looks: glances, what running units lost, what others changed beside ours, and the daily reading.

Says when a whole look is due; it changes nothing itself.
"""

import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import Artifact, Resource
from freehold_agent.drift import Drift, find_drift
from freehold_agent.effects import Effects
from freehold_agent.effects import Host as EffectsHost
from freehold_agent.glance import Glance, Stamp, invocation
from freehold_agent.rehash import Rehash

LOOKS_IN_A_ROW = 6
"""Whole looks that glances may ask for at once; from then on one in SECONDS_PER_LOOK: a unit that crashes every second
changes at every glance."""
SECONDS_PER_LOOK = 20.0


class Watch:
    """One node, watched; `begin` comes before each whole look, `changed` as often as one likes in between."""

    def __init__(self, root: str = "", now: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._now = now
        self._document: Optional[JoinDocument] = None
        self._resources: Sequence[Resource] = ()
        self._glance: Optional[Glance] = None
        self._seen: Stamp = {}
        self._effects: Optional[Effects] = None
        self._rehash: Optional[Rehash] = None
        self._lost: Dict[str, Tuple[str, List[str]]] = {}
        """By unit: the run that lost something, and what."""
        self._looks = float(LOOKS_IN_A_ROW)
        self._counted = now()
        self.drift: List[Drift] = []
        """What others changed, as of the last glance."""

    def begin(self, document: JoinDocument, resources: Sequence[Resource]) -> Dict[str, List[str]]:
        """Note what is there ahead of a whole look, so that no change after it is missed; return `lost` units."""
        self._document, self._resources = document, resources
        self._glance = Glance(resources, self._root)
        self._seen = self._glance.stamp()
        if self._effects is None:
            self._effects = Effects(document, EffectsHost(root=self._root))
            self._rehash = Rehash(document.node, root=self._root)
        self._effects.follow(document)
        self._note()
        lost, self._lost = self._lost, {}
        # Whoever held the lock until now may have started some of them anew.
        return {unit: things for unit, (run, things) in lost.items() if invocation(unit, self._root) == run}

    def changed(self) -> bool:
        """Glance; say whether a whole look is due now. Raises OSError where files of the store cannot be read."""
        if self._glance is None:
            return False
        self._note()
        damaged = self._read_one()
        due = damaged or bool(self._lost) or self._glance.stamp() != self._seen
        return due and self._may_look()

    def _note(self) -> None:
        if self._document is None or self._effects is None:
            return
        self.drift = find_drift(self._document, self._resources, self._root)
        for unit, things in self._effects.lost().items():
            self._lost[unit] = (invocation(unit, self._root), things)

    def _read_one(self) -> bool:
        artifacts = [resource for resource in self._resources if isinstance(resource, Artifact)]
        return self._rehash is not None and self._rehash.check(artifacts) is not None

    def _may_look(self) -> bool:
        now = self._now()
        earned = (now - self._counted) / SECONDS_PER_LOOK
        self._looks = min(float(LOOKS_IN_A_ROW), self._looks + earned)
        self._counted = now
        if self._looks < 1:
            return False
        self._looks -= 1
        return True
