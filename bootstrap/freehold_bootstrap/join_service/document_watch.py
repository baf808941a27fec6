"""All join documents, followed by one watch, so that a thousand long polls cost the API server one."""

import threading
import time
from typing import Any, Dict, Mapping, Optional, Tuple

from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap import journal
from freehold_bootstrap.documents import document_name, generation_of, text_of
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS

Document = Tuple[int, str]
"""Generation and JSON text."""

_SELECTOR = RECORD_LABEL + "=document"
_WATCH_SECONDS = 240.0
_LONGEST_PAUSE = 5.0


class DocumentWatch:
    """Thread-safe; `start` begins to follow, until the process ends."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._documents: Dict[str, Document] = {}
        self._known = threading.Condition()
        self._synced = False

    def start(self) -> None:
        """Follow in a thread of its own."""
        threading.Thread(target=self._run, name="documents", daemon=True).start()

    def wait(self, node: str, generation: int, timeout: float) -> Optional[Document]:
        """Return the node's document once its generation is above the given one; None after `timeout` seconds.

        Raises LookupError while nothing has been read yet.
        """
        name = document_name(node)
        deadline = time.monotonic() + timeout
        with self._known:
            while True:
                found = self._documents.get(name)
                if found is not None and found[0] > generation:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    if not self._synced:
                        raise LookupError("documents have not been read yet")
                    return None
                self._known.wait(left)

    def follow(self) -> None:
        """List, then watch until the watch ends. Raises ApiError, OSError."""
        listed = self._api.list(RECORDS, labelSelector=_SELECTOR)
        with self._known:
            self._documents = {item["metadata"]["name"]: _document(item) for item in listed["items"]}
            self._synced = True
            self._known.notify_all()
        version = listed["metadata"]["resourceVersion"]
        events = self._api.watch(RECORDS, version, timeout=_WATCH_SECONDS, labelSelector=_SELECTOR)
        for kind, obj in events:
            with self._known:
                if kind in ("ADDED", "MODIFIED"):
                    self._documents[obj["metadata"]["name"]] = _document(obj)
                elif kind == "DELETED":
                    self._documents.pop(obj["metadata"]["name"], None)
                self._known.notify_all()

    def _run(self) -> None:
        pause, said = 0.1, ""
        while True:
            try:
                self.follow()
                pause, said = 0.1, ""
            except Exception as error:  # noqa: BLE001 a watch cut off in the middle of a line must not end this one
                text = "{}: {}".format(type(error).__name__, error)
                if text != said:  # the API server is not up yet, our rights are not there yet: each news once
                    journal.warning("documents are read again", error=text)
                    said = text
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)


def _document(obj: Mapping[str, Any]) -> Document:
    return generation_of(obj), text_of(obj)
