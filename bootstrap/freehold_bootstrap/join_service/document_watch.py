"""All join documents and lists of volumes, followed by one watch each: a thousand long polls cost two."""

import threading
import time
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap import journal, volume_records
from freehold_bootstrap.documents import document_name, generation_of, text_of
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS

Document = Tuple[int, str]
"""Generation and JSON text."""

_READERS: Dict[str, Callable[[Mapping[str, Any]], Document]] = {
    "document": lambda obj: (generation_of(obj), text_of(obj)),
    volume_records.LIST: lambda obj: (volume_records.generation_of(obj), volume_records.text_of(obj)),
}
"""How each kind of object is read, by the label that selects it."""
_WATCH_SECONDS = 240.0
_LONGEST_PAUSE = 5.0


class DocumentWatch:
    """Thread-safe; `start` begins to follow, until the process ends."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._documents: Dict[str, Dict[str, Document]] = {kind: {} for kind in _READERS}
        self._known = threading.Condition()
        self._synced = dict.fromkeys(_READERS, False)

    def start(self) -> None:
        """Follow in threads of their own."""
        for kind in _READERS:
            threading.Thread(target=self._run, args=(kind,), name=kind, daemon=True).start()

    def wait(self, node: str, generation: int, timeout: float) -> Optional[Document]:
        """Return the node's document once its generation is above the given one. Else as `wait_for`."""
        return self.wait_for(node, generation, None, timeout)

    def wait_for(
        self, node: str, document: Optional[int], volumes: Optional[int], timeout: float
    ) -> Optional[Document]:
        """Return the node's document or its list of volumes, whichever is first of a greater generation.

        None stands for what is not asked for; None is returned after `timeout` seconds, and as soon as the document
        is gone: the node was removed. Raises LookupError while what is asked for has not been read yet.
        """
        own = document_name(node)
        asked = [
            (kind, name, generation)
            for kind, name, generation in (
                ("document", own, document),
                (volume_records.LIST, volume_records.name_of(volume_records.LIST, node), volumes),
            )
            if generation is not None
        ]
        deadline = time.monotonic() + timeout
        with self._known:
            there = own in self._documents["document"]
            while True:
                for kind, name, generation in asked:
                    found = self._documents[kind].get(name)
                    if found is not None and found[0] > generation:
                        return found
                if there and own not in self._documents["document"]:
                    return None
                left = deadline - time.monotonic()
                if left <= 0:
                    if not all(self._synced[kind] for kind, _, _ in asked):
                        raise LookupError("documents have not been read yet")
                    return None
                self._known.wait(left)

    def follow(self, kind: str = "document") -> None:
        """List, then watch until the watch ends. Raises ApiError, OSError."""
        read, selector = _READERS[kind], RECORD_LABEL + "=" + kind
        listed = self._api.list(RECORDS, labelSelector=selector)
        with self._known:
            self._documents[kind] = {item["metadata"]["name"]: read(item) for item in listed["items"]}
            self._synced[kind] = True
            self._known.notify_all()
        version = listed["metadata"]["resourceVersion"]
        events = self._api.watch(RECORDS, version, timeout=_WATCH_SECONDS, labelSelector=selector)
        for event, obj in events:
            with self._known:
                if event in ("ADDED", "MODIFIED"):
                    self._documents[kind][obj["metadata"]["name"]] = read(obj)
                elif event == "DELETED":
                    self._documents[kind].pop(obj["metadata"]["name"], None)
                self._known.notify_all()

    def _run(self, kind: str) -> None:
        pause, said = 0.1, ""
        while True:
            try:
                self.follow(kind)
                pause, said = 0.1, ""
            except Exception as error:  # noqa: BLE001 a watch cut off in the middle of a line must not end this one
                text = "{}: {}".format(type(error).__name__, error)
                if text != said:  # the API server is not up yet, our rights are not there yet: each news once
                    journal.warning("documents are read again", kind=kind, error=text)
                    said = text
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
