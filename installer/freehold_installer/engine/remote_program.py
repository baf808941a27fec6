"""The protocol with the agent run from memory: JSON lines out, one request in, answers and bytes on demand.

A line `{"result": ...}` ends it well, `{"error": ...}` badly. Of the events, `missing` asks for the bytes of
artifacts, `need-...` for a secret that must not be part of the request; `waiting` alone only shows life; all
others are progress (`freehold_agent.remote` is the other side).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freehold_installer.engine.conversation import LOST, Conversation, lines, said
from freehold_installer.errors import (
    BundleError,
    FreeholdError,
    InputError,
    LockedError,
    StepError,
    UnfitError,
    UnreachableError,
)

BLOCK = 1 << 20
ALIVE = {"event": "waiting"}
RECEIVE = "receive"
"""The verb that takes artifacts from a stream."""
DOING = {
    RECEIVE: "receiving files",
    "look": "looking at it",
    "plan": "comparing it with the inventory",
    "converge": "setting up the control plane",
    "prepare": "preparing the node",
    "join": "joining",
    "settle": "finishing the node",
    "probe": "using the network of a pod",
    "leave": "leaving",
}
"""What a verb does, in an error for people."""
OnEvent = Callable[[dict[str, Any]], None]
OnNeed = Callable[[dict[str, Any]], bytes]
OnMissing = Callable[[Conversation, Sequence[str]], None]


class Program:
    """One run of one verb on one machine."""

    def __init__(self, machine: str, verb: str, on_event: OnEvent | None, on_need: OnNeed | None) -> None:
        self._machine = machine
        self._verb = verb
        self.doing = DOING.get(verb, verb)
        """What that is, for people."""
        self._on_event = on_event
        self._on_need = on_need

    def drive(
        self,
        conversation: Conversation,
        first: bytes,
        *,
        on_missing: OnMissing | None = None,
        timeout: float,
    ) -> Any:
        """Send the first line, follow the conversation to its end, return the result. Closes it.

        Raises StepError, or what the kind of the reported error maps to; timeout in seconds.
        """
        import gevent

        senders: list[Any] = []
        try:
            with gevent.Timeout(timeout):
                senders.append(gevent.spawn(_deliver, conversation, first))
                return self._follow(conversation, on_missing, senders)
        except gevent.Timeout as error:
            raise StepError(self._machine, self.doing, f"no end within {timeout:g} s") from error
        finally:
            gevent.killall(senders, block=False)
            conversation.close()

    def _follow(self, conversation: Conversation, on_missing: OnMissing | None, senders: list[Any]) -> Any:
        import gevent

        noise = b""
        for line in lines(conversation):
            event = _parsed(line)
            if event is None:
                noise = line or noise
                continue
            if "result" in event:
                conversation.end()
                return event["result"]
            if "error" in event:
                raise _failure_of(senders) or self._error(event["error"])
            kind = str(event.get("event", ""))
            if kind == "missing" and on_missing is not None:
                senders.append(gevent.spawn(_quiet, on_missing, conversation, event["artifacts"]))
            elif kind.startswith("need-") and self._on_need is not None:
                _deliver(conversation, self._on_need(event))
            elif self._on_event is not None and event != ALIVE:
                self._on_event(event)
        code = conversation.finish()
        gevent.joinall(senders, timeout=1)
        raise _failure_of(senders) or self._ended(code, said(conversation.errors) or said(noise))

    def _error(self, event: Mapping[str, Any]) -> FreeholdError:
        message = str(event.get("message") or "it did not say why")
        hint, detail = str(event.get("hint") or ""), str(event.get("detail") or "")
        kinds: dict[str, type[FreeholdError]] = {
            "input": InputError,
            "unfit": UnfitError,
            "locked": LockedError,
        }
        if self._verb == RECEIVE:
            # The machine found that what we sent is not what we said.
            kinds["digest"] = BundleError
        known = kinds.get(str(event.get("kind")))
        if known is not None:
            return known(f"{self._machine}: {message}", hint=hint, detail=detail)
        step = str(event.get("title") or event.get("key") or self.doing)
        return StepError(self._machine, step, message, hint=hint, detail=detail)

    def _ended(self, code: int, text: str) -> FreeholdError:
        last = text.splitlines()[-1] if text else ""
        if code == LOST:
            lost = "the connection was lost, or the program there killed"
            return StepError(self._machine, self.doing, f"{lost}: {last}" if last else lost, detail=text)
        if text.startswith("sudo:"):
            return UnreachableError(
                f"{self._machine}: cannot become root with sudo: {text}",
                hint="allow sudo without a password for the login user",
            )
        if code == 127:
            return UnfitError(
                f"{self._machine}: there is no python3: {text}",
                hint="install it: apt-get install python3, or dnf install python3",
            )
        why = last or f"it ended with exit code {code} and said nothing"
        return StepError(self._machine, self.doing, why, detail=text)


def send_files(
    files: Sequence[tuple[Path, str, int]],
    on_progress: Callable[[int, int], None],
    titles: Mapping[str, str] | None = None,
) -> OnMissing:
    """Return what answers a `missing` event: the bytes of those files, in the order asked for.

    It raises BundleError, naming the file by its title, for one that cannot be read or is too short.
    """
    names = titles or {}
    by_digest = {digest: (path, size) for path, digest, size in files}

    def answer(conversation: Conversation, missing: Sequence[str]) -> None:
        total = sum(by_digest[digest][1] for digest in missing)
        sent = 0
        on_progress(0, total)
        buffer = bytearray(BLOCK)
        view = memoryview(buffer)
        for digest in missing:
            path, size = by_digest[digest]
            try:
                for block in _blocks(path, size, view, names.get(digest, path.name)):
                    conversation.send(block)
                    sent += len(block)
                    on_progress(sent, total)
            except BundleError:
                # The machine must not wait for bytes that will not come.
                conversation.end()
                raise

    return answer


def _blocks(path: Path, size: int, view: memoryview, title: str) -> Iterator[memoryview]:
    """Yield `size` bytes of a file. Raises BundleError when it has fewer or cannot be read."""
    left, why = size, "too short"
    try:
        with path.open("rb", buffering=0) as file:
            while left and (count := file.readinto(view[: min(BLOCK, left)])):
                yield view[:count]
                left -= count
    except FileNotFoundError:
        why = "missing"
    except OSError as error:
        why = f"unreadable ({error.strerror})"
    if left:
        raise BundleError(f"{title} of the bundle is {why}: {path}", hint="freehold bundle verify")


def _failure_of(senders: Sequence[Any]) -> FreeholdError | None:
    """Return why we stopped sending, if that was our own doing: the machine only saw the end of the stream."""
    return next((sender.value for sender in senders if isinstance(sender.value, FreeholdError)), None)


def _deliver(conversation: Conversation, data: bytes) -> None:
    _quiet(lambda: conversation.send(data))


def _quiet(work: Callable[..., None], *arguments: Any) -> FreeholdError | None:
    """Writing to a program that is gone is no error of its own: its last words say what happened."""
    try:
        work(*arguments)
    except FreeholdError as error:
        return error
    except (OSError, EOFError):
        pass
    return None


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
