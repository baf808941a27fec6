"""A collection of the API, kept in memory by one list and one watch. Knows nothing of what is in it."""

from threading import Event, Lock
from typing import Any, Callable, Dict, List, Mapping, Optional

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import journal
from freehold_controller.backoff import Backoff

Object = Dict[str, Any]
_WATCH_SECONDS = 60.0


class Mirror:
    """The objects of a collection by `namespace/name`. Thread-safe."""

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        changed: Callable[[], None],
        *,
        modifications: bool = True,
        **query: str,
    ) -> None:
        """`changed` is called after each change; without `modifications` only when objects come or go."""
        self._api = api
        self._path = path
        self._changed = changed
        self._modifications = modifications
        self._query = query
        self._lock = Lock()
        self._objects: Dict[str, Object] = {}
        self._synced = Event()

    @property
    def synced(self) -> bool:
        """Say whether the collection has been read."""
        return self._synced.is_set()

    def items(self) -> List[Object]:
        """Return all objects; they must not be changed."""
        with self._lock:
            return list(self._objects.values())

    def get(self, key: str) -> Optional[Object]:
        """Return the object at `namespace/name`, or at `name` where there are no namespaces."""
        with self._lock:
            return self._objects.get(key)

    def put(self, obj: Mapping[str, Any]) -> None:
        """Take up what we have just written or read, ahead of the watch."""
        with self._lock:
            self._objects[key_of(obj)] = _light(obj)

    def drop(self, key: str) -> None:
        """Forget what we have just seen to be gone."""
        with self._lock:
            self._objects.pop(key, None)

    def run(self, stop: Event) -> None:
        """Follow until stopped."""
        backoff = Backoff(stop, longest=5.0)
        while not stop.is_set():
            try:
                self.follow(stop, backoff)
            except (ApiError, OSError) as error:
                if getattr(error, "status", 0) != 410:
                    journal.warning("collection is read again", path=self._path, error=str(error))
                backoff.pause()

    def follow(self, stop: Event, backoff: Optional[Backoff] = None) -> None:
        """List, then watch for as long as the server keeps up. Raises ApiError, OSError."""
        listing = self._api.list(self._path, **self._query)
        with self._lock:
            self._objects = {key_of(obj): _light(obj) for obj in listing.get("items") or ()}
        self._synced.set()
        self._changed()
        version = str(listing["metadata"]["resourceVersion"])
        while not stop.is_set():
            for kind, obj in self._api.watch(self._path, version, timeout=_WATCH_SECONDS, **self._query):
                version = str(obj["metadata"]["resourceVersion"])
                if backoff is not None:
                    backoff.reset()
                if stop.is_set():
                    return
                if kind in ("ADDED", "MODIFIED", "DELETED") and self._take(kind, obj):
                    self._changed()

    def _take(self, kind: str, obj: Object) -> bool:
        """Take an event; say whether it is worth a look."""
        key = key_of(obj)
        with self._lock:
            known = self._objects.get(key)
            if kind == "DELETED":
                return self._objects.pop(key, None) is not None
            if known is not None and _version(known) >= _version(obj) and _uid(known) == _uid(obj):
                return False  # our own write, come back
            self._objects[key] = _light(obj)
        return known is None or self._modifications


def key_of(obj: Mapping[str, Any]) -> str:
    """Return `namespace/name`, or `name` where there are no namespaces."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return "{}/{}".format(namespace, metadata["name"]) if namespace else str(metadata["name"])


def _light(obj: Mapping[str, Any]) -> Object:
    """Return the object without its field managers: they are half of its size and nobody's business here."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return {**obj, "metadata": metadata}


def _version(obj: Mapping[str, Any]) -> int:
    """Return the resource version; versions of one collection can be compared as numbers since Kubernetes 1.35."""
    try:
        return int(obj["metadata"]["resourceVersion"])
    except (KeyError, ValueError):
        return 0


def _uid(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("uid") or "")
