"""An in-memory Kubernetes API with the interface of `KubernetesApi`: names, versions, conflicts, watches.

It validates nothing else. `calls` holds every call as (verb, path), `on` lets a test react to objects as a
controller would:

    api = FakeKubernetes()
    api.on("create", "/api/v1/nodes", gives_pod_cidrs)
"""

import copy
import json
import threading
import time
import urllib.parse
import uuid
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi, NotFound

Object = Dict[str, Any]
Reaction = Callable[["FakeKubernetes", str, Object], None]


class FakeKubernetes(KubernetesApi):
    """Objects by path. Thread-safe; watches block on a condition, never poll."""

    def __init__(self) -> None:
        self.objects: Dict[str, Object] = {}
        self.calls: List[Tuple[str, str]] = []
        self.failures: List[Tuple[str, str, Exception]] = []
        """(verb, path prefix, error): raised once each, in order of match."""
        self.is_healthy = True
        self._version = 100
        self._events: List[Tuple[int, str, str, Object]] = []
        self._reactions: List[Tuple[str, str, Reaction]] = []
        self._changed = threading.Condition(threading.RLock())

    def on(self, verb: str, prefix: str, reaction: Reaction) -> None:
        """Call `reaction(api, path, object)` after each successful verb on a path with this prefix."""
        self._reactions.append((verb, prefix, reaction))

    def fail(self, verb: str, prefix: str, error: Exception) -> None:
        """Raise `error` at the next such call, before it has any effect."""
        self.failures.append((verb, prefix, error))

    def add(self, path: str, obj: Mapping[str, Any]) -> Object:
        """Put an object at its own path without recording a call."""
        with self._changed:
            return self._store(path, copy.deepcopy(dict(obj)), "ADDED")

    def paths(self, prefix: str) -> List[str]:
        return sorted(path for path in self.objects if path.startswith(prefix))

    def get(self, path: str) -> Object:
        with self._changed:
            self._record("get", path)
            return copy.deepcopy(self._at(path))

    def list(self, path: str, **query: Any) -> Object:
        with self._changed:
            self._record("list", path)
            items = [
                copy.deepcopy(obj)
                for at, obj in sorted(self.objects.items())
                if _inside(path, at) and _selected(obj, query)
            ]
            return {"items": items, "metadata": {"resourceVersion": str(self._version)}}

    def create(self, path: str, obj: Mapping[str, Any]) -> Object:
        with self._changed:
            self._record("create", path)
            created = copy.deepcopy(dict(obj))
            metadata = created.setdefault("metadata", {})
            if "name" not in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            at = path + "/" + metadata["name"]
            if at in self.objects:
                raise Conflict(409, "AlreadyExists", at + " exists already")
            metadata.pop("resourceVersion", None)
            stored = self._store(at, created, "ADDED")
            self._react("create", at)
            return copy.deepcopy(stored)

    def replace(self, path: str, obj: Mapping[str, Any]) -> Object:
        with self._changed:
            self._record("replace", path)
            owner, _, last = path.rpartition("/")
            path = owner if last in ("status", "approval") else path
            self._compare(self._at(path), obj)
            stored = self._store(path, copy.deepcopy(dict(obj)), "MODIFIED")
            self._react("replace", path)
            return copy.deepcopy(stored)

    def merge(self, path: str, patch: Mapping[str, Any], subresource: str = "") -> Object:
        with self._changed:
            self._record("merge", path + ("/" + subresource if subresource else ""))
            current = self._at(path)
            self._compare(current, patch)
            stored = self._store(path, _merged(current, patch), "MODIFIED")
            self._react("merge", path)
            return copy.deepcopy(stored)

    def apply(
        self, path: str, obj: Mapping[str, Any], field_manager: str = "freehold", force: bool = True
    ) -> Object:
        """Merge, or create: enough for objects that only one manager writes."""
        with self._changed:
            self._record("apply", path)
            if path in self.objects:
                merged = _merged(self.objects[path], obj)
                if merged == self.objects[path]:
                    return copy.deepcopy(merged)
                stored = self._store(path, merged, "MODIFIED")
            else:
                stored = self._store(path, copy.deepcopy(dict(obj)), "ADDED")
            self._react("apply", path)
            return copy.deepcopy(stored)

    def delete(self, path: str, **query: Any) -> Object:
        with self._changed:
            self._record("delete", path)
            gone = self._at(path)
            del self.objects[path]
            self._version += 1
            gone["metadata"]["resourceVersion"] = str(self._version)
            self._events.append((self._version, "DELETED", path, gone))
            self._changed.notify_all()
            self._react("delete", path, gone)
            return copy.deepcopy(gone)

    def watch(
        self, path: str, resource_version: str = "", timeout: float = 300, **query: Any
    ) -> Iterator[Tuple[str, Object]]:
        """Yield events after `resource_version` (or what exists, then events) for `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._record("watch", path)
            seen = int(resource_version) if resource_version else self._version
            first = [] if resource_version else self.list(path, **query)["items"]
        for obj in first:
            yield "ADDED", obj
        while True:
            with self._changed:
                found = None
                while found is None:
                    found = next((event for event in self._events if event[0] > seen), None)
                    if found is None:
                        left = deadline - time.monotonic()
                        if left <= 0:
                            return
                        self._changed.wait(left)
                seen, kind, at, obj = found
            if _inside(path, at) and _selected(obj, query):
                yield kind, copy.deepcopy(obj)

    def healthy(self, path: str = "/readyz") -> bool:
        return self.is_healthy

    def wait_until_healthy(self, timeout: float, path: str = "/readyz", interval: float = 0.05) -> None:
        if not self.is_healthy:
            raise TimeoutError("not ready")

    def close(self) -> None:
        pass

    def _record(self, verb: str, path: str) -> None:
        self.calls.append((verb, path))
        for failure in self.failures:
            if failure[0] == verb and path.startswith(failure[1]):
                self.failures.remove(failure)
                raise failure[2]

    def _at(self, path: str) -> Object:
        if path not in self.objects:
            raise NotFound(404, "NotFound", path + " not found")
        return self.objects[path]

    def _compare(self, current: Object, new: Mapping[str, Any]) -> None:
        wanted = (new.get("metadata") or {}).get("resourceVersion")
        if wanted and wanted != current["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "the object has been modified")
        uid = (new.get("metadata") or {}).get("uid")
        if uid and uid != current["metadata"]["uid"]:
            raise Conflict(409, "Conflict", "the object is another one")

    def _store(self, path: str, obj: Object, kind: str) -> Object:
        json.dumps(obj)  # what cannot travel as JSON fails here, as it would on the wire
        self._version += 1
        metadata = obj.setdefault("metadata", {})
        metadata.setdefault("name", urllib.parse.unquote(path.rpartition("/")[2]))
        previous = self.objects.get(path)
        metadata["uid"] = (
            previous["metadata"]["uid"] if previous else metadata.get("uid") or str(uuid.uuid4())
        )
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault("creationTimestamp", "2026-11-23T08:00:00Z")
        self.objects[path] = obj
        self._events.append((self._version, kind, path, copy.deepcopy(obj)))
        self._changed.notify_all()
        return obj

    def _react(self, verb: str, path: str, gone: Optional[Object] = None) -> None:
        for wanted, prefix, reaction in self._reactions:
            if wanted == verb and path.startswith(prefix):
                reaction(self, path, copy.deepcopy(gone if gone is not None else self.objects[path]))


def gives_pod_cidrs(api: FakeKubernetes, path: str, node: Object) -> None:
    """React to a new Node as the controller manager does."""
    number = sum(1 for at in api.objects if _inside("/api/v1/nodes", at)) - 1
    cidr = "10.244.{}.0/24".format(number)
    api.merge(path, {"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})


def goes_live(api: FakeKubernetes, name: str, version: str = "v1.37.2") -> None:
    """Do what a kubelet does first."""
    api.merge("/api/v1/nodes/" + name, {"status": {"nodeInfo": {"kubeletVersion": version}}}, "status")


def forbidden(message: str = "no") -> ApiError:
    return ApiError(403, "Forbidden", message)


def _inside(collection: str, path: str) -> bool:
    """Tell whether the object lies in the collection; `/api/v1/configmaps` means all namespaces'."""
    owner = path.rpartition("/")[0]
    if owner == collection:
        return True
    base, _, kind = collection.rpartition("/")
    return owner.startswith(base + "/namespaces/") and owner.endswith("/" + kind)


def _selected(obj: Object, query: Mapping[str, Any]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, str(query.get("labelSelector", "")).split(",")):
        name, _, value = term.partition("=")
        if name not in labels or ("=" in term and labels[name] != value):
            return False
    for term in filter(None, str(query.get("fieldSelector", "")).split(",")):
        name, _, value = term.partition("=")
        found: Any = obj
        for step in name.split("."):
            found = (found or {}).get(step)
        if found != value:
            return False
    return True


def _merged(current: Any, patch: Any) -> Any:
    """Return an RFC 7396 merge."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = copy.deepcopy(current) if isinstance(current, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result
