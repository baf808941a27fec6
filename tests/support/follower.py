"""All objects of a collection and every change to them since, by one watch: what happened, not what is left of it."""

import copy
import json
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from freehold_agent.machine.kubernetes_api import KubernetesApi

Object = Dict[str, Any]


class Follower:
    """Follows in a thread of its own, until the process ends or the API server stays away."""

    def __init__(self, api: KubernetesApi, path: str) -> None:
        self._api = api
        self._path = path
        self._changed = threading.Condition()
        self.objects: Dict[str, Object] = {}
        self.history: List[Tuple[str, Object]] = []
        """(event type, object) in the order of their versions."""
        self._awaited: Dict[str, List[Tuple[Callable[[Object], bool], threading.Event]]] = {}
        listed = api.list(path)
        for item in listed["items"]:
            self.objects[item["metadata"]["name"]] = item
        version = listed["metadata"]["resourceVersion"]
        self._thread = threading.Thread(target=self._run, args=(version,), name=path, daemon=True)
        self._thread.start()

    def wait(self, done: Callable[[Dict[str, Object]], bool], timeout: float = 120.0) -> None:
        """Return when `done(objects)`; asked at each change. Raises AssertionError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not done(self.objects):
                left = deadline - time.monotonic()
                assert left > 0, "it never happened; there is {}".format(sorted(self.objects))
                self._changed.wait(left)

    def wait_for(self, name: str, done: Callable[[Object], bool], timeout: float = 120.0) -> Object:
        """Return one object once `done(object)`; hundreds may wait at a time. Raises AssertionError."""
        reached = threading.Event()
        with self._changed:
            found = self.objects.get(name)
            if found is not None and done(found):
                return found
            self._awaited.setdefault(name, []).append((done, reached))
        assert reached.wait(timeout), "it never happened; there is {}".format(self.get(name))
        return self.objects[name]

    def join(self) -> None:
        """Wait for the end of the thread, after that of the API server."""
        self._thread.join(30)

    def of(self, name: str) -> List[Tuple[str, Object]]:
        """Return the history of one object."""
        with self._changed:
            return [(kind, obj) for kind, obj in self.history if obj["metadata"]["name"] == name]

    def get(self, name: str) -> Optional[Object]:
        """Return what the object is now."""
        with self._changed:
            return copy.deepcopy(self.objects.get(name))

    def everything(self) -> str:
        """Return all that was ever seen, as text to search in."""
        with self._changed:
            return json.dumps([self.objects, self.history])

    def _run(self, version: str) -> None:
        failures = 0
        while failures < 3:
            try:
                for kind, obj in self._api.watch(self._path, version, timeout=600):
                    version = obj["metadata"]["resourceVersion"]
                    failures = 0
                    if kind != "BOOKMARK":
                        self._note(kind, obj)
            except Exception:  # the API server is killed, or the test ends, in the middle of a line
                failures += 1
                time.sleep(0.2)

    def _note(self, kind: str, obj: Object) -> None:
        name = obj["metadata"]["name"]
        obj["metadata"].pop("managedFields", None)
        with self._changed:
            self.history.append((kind, obj))
            if kind == "DELETED":
                self.objects.pop(name, None)
            else:
                self.objects[name] = obj
                for done, reached in self._awaited.get(name, ()):
                    if done(obj):
                        reached.set()
            self._changed.notify_all()
