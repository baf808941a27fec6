"""The agent's verbs for a caller on the other end of a stream: a request in, JSON lines out.

Run from memory over SSH (`machine.in_memory`) by the installer. stdout carries only the protocol:
{"event": ...} lines, then one {"result": ...} or {"error": {"kind", "message", "hint", "detail"}}.
"""

import json
import os
import sys
import threading
import traceback
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, Optional, Set

from freehold_agent.caller import end_with_the_caller
from freehold_agent.contract import paths
from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.contract.resources import File, Resource, difference, from_json, key_of
from freehold_agent.errors import AgentError, BadRequest
from freehold_agent.machine.kubernetes_api import ApiError
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import SystemdError

Tell = Callable[[Mapping[str, Any]], None]
Verb = Callable[[Dict[str, Any], BinaryIO, Tell], Any]


def main(request: Dict[str, Any]) -> int:
    """Perform a request read from stdin and print its outcome; return the exit status (0 or 1)."""
    lock = threading.Lock()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints by accident must not end up in the protocol

    def tell(line: Mapping[str, Any]) -> None:
        with lock:
            output.write(json.dumps(line) + "\n")
            output.flush()

    try:
        end_with_the_caller(output.fileno())
        status = perform(request, sys.stdin.buffer, tell)
        output.close()
    except BrokenPipeError:  # the caller is gone: nobody reads, nothing to clean up beyond what was recorded
        os._exit(1)
    return status


def perform(request: Dict[str, Any], stream: BinaryIO, tell: Tell) -> int:
    """Perform one request; tell events and the outcome. Raises BrokenPipeError when nobody listens."""
    try:
        os.umask(0o022)
        verb = VERBS.get(str(request.get("verb")))
        if verb is None:
            raise BadRequest(
                "unknown verb {!r}; this agent knows {}".format(request.get("verb"), ", ".join(VERBS))
            )
        result = verb(request, stream, tell)
    except BrokenPipeError:
        raise
    except BaseException as error:  # noqa: BLE001  the protocol's end: every failure becomes one message
        tell({"error": describe(error)})
        return 1
    tell({"result": result})
    return 0


def describe(error: BaseException) -> Dict[str, str]:
    """Return an error as the caller gets it: one clear message; the traceback stands only under `detail`."""
    if isinstance(error, AgentError):
        return error.to_json()
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    kind, message, detail = "internal", "{}: {}".format(type(error).__name__, error), trace
    hint = ""
    if isinstance(error, SystemdError):
        kind, message, detail = "step", str(error), error.journal
    elif isinstance(error, ApiError):
        kind, message = "api", "the API server refused: {}".format(error)
    elif isinstance(error, DocumentError):
        kind, message = "input", str(error)
    elif isinstance(error, ProgramFailed):
        kind, message = "step", str(error)
    elif isinstance(error, OSError) and error.errno == 28:
        kind, message = "disk-full", "no space left on the disk of {}".format(error.filename or error)
        hint = "make room there; what has arrived is kept"
    elif isinstance(error, OSError):
        kind, message = "step", str(error)
    return {"kind": kind, "message": message, "hint": hint, "detail": detail}


def _facts(_request: Dict[str, Any], _stream: BinaryIO, _tell: Tell) -> Any:
    from freehold_agent.facts import gather

    return gather()


def _look(_request: Dict[str, Any], _stream: BinaryIO, _tell: Tell) -> Any:
    """Return facts, the document this machine was converged from last (or None) and who has a record here."""
    from freehold_agent.facts import gather
    from freehold_agent.records import OWNERS, Record

    try:
        with open(paths.JOIN_DOCUMENT, "rb") as stream:
            document = json.loads(stream.read())
    except (OSError, ValueError):
        document = None
    owners = [owner for owner in OWNERS if Record(owner).keys]
    return {"facts": gather(), "document": document, "owners": owners}


def _probe(request: Dict[str, Any], _stream: BinaryIO, _tell: Tell) -> Any:
    from freehold_agent.probe import probe

    return probe(request)


def _observe(request: Dict[str, Any], _stream: BinaryIO, _tell: Tell) -> Any:
    from freehold_agent.observe import observe

    resources, recorded = _resources(request), _recorded(request)
    return {"observed": observe(resources, recorded, stale=_stale(request)), "recorded": recorded}


def _plan(request: Dict[str, Any], _stream: BinaryIO, _tell: Tell) -> Any:
    """Return changes, the texts of files that change, and for a document the facts it was judged by."""
    from freehold_agent.observe import contents_for_diff, observe, text_of

    facts: Optional[Dict[str, Any]] = None
    if request.get("document") is not None:
        from freehold_agent.desired import desired_node
        from freehold_agent.facts import gather

        facts = gather()
        document = JoinDocument.from_json(request["document"])
        resources = list(desired_node(document, facts, bool(request.get("credential_ready", True))))
        request = {"owner": "node", **request}
    else:
        resources = _resources(request)
    recorded = _recorded(request)
    changes = difference(observe(resources, recorded, stale=_stale(request)), resources, recorded)
    current = contents_for_diff(resources, changes)
    changing = {change.key for change in changes}
    texts = {
        key_of(resource): {"before": current.get(key_of(resource)), "after": text_of(resource)}
        for resource in resources
        if isinstance(resource, File) and key_of(resource) in changing and not resource.secret
    }
    secret = [key_of(resource) for resource in resources if isinstance(resource, File) and resource.secret]
    return {
        "changes": [change.to_json() for change in changes],
        "texts": texts,
        "secret": secret,
        "facts": facts,
    }


def _converge(request: Dict[str, Any], _stream: BinaryIO, tell: Tell) -> Any:
    from freehold_agent.converge import converge
    from freehold_agent.fetch import Fetcher, Waiter

    resources, owner = _resources(request), _owner(request)
    if request.get("endpoints"):
        fetcher = Fetcher(request["endpoints"], request["ca_pem"])
        try:
            return converge(resources, owner, fetcher, tell, request.get("only")).to_json()
        finally:
            fetcher.close()
    waiter = Waiter(float(request.get("timeout", 120)), alive=lambda: tell({"event": "waiting"}))
    return converge(resources, owner, waiter, tell, request.get("only")).to_json()


def _receive(_request: Dict[str, Any], stream: BinaryIO, tell: Tell) -> Any:
    from freehold_agent.fetch import receive

    return receive(stream, tell)


def _prepare(request: Dict[str, Any], stream: BinaryIO, tell: Tell) -> Any:
    from freehold_agent.join import prepare_over_stream

    return prepare_over_stream(request, stream, tell)


def _join(request: Dict[str, Any], stream: BinaryIO, tell: Tell) -> Any:
    from freehold_agent.join import join_over_stream

    return join_over_stream(request, stream, tell)


def _settle(request: Dict[str, Any], stream: BinaryIO, tell: Tell) -> Any:
    from freehold_agent.join import settle_over_stream

    return settle_over_stream(request, stream, tell)


def _leave(_request: Dict[str, Any], _stream: BinaryIO, tell: Tell) -> Any:
    from freehold_agent.leave import leave

    return leave(tell).to_json()


VERBS: Dict[str, Verb] = {
    "facts": _facts,
    "look": _look,
    "probe": _probe,
    "observe": _observe,
    "plan": _plan,
    "converge": _converge,
    "receive": _receive,
    "prepare": _prepare,
    "join": _join,
    "settle": _settle,
    "leave": _leave,
}


def _owner(request: Mapping[str, Any]) -> str:
    from freehold_agent.records import OWNERS

    owner = str(request.get("owner"))
    if owner not in OWNERS:
        raise BadRequest("owner must be one of {}, not {!r}".format(", ".join(OWNERS), owner))
    return owner


def _recorded(request: Mapping[str, Any]) -> List[str]:
    """Return the owner's keys that a converge would judge: what another owner relies on too is left alone."""
    from freehold_agent.records import Record, entries_of_others

    owner = _owner(request)
    others = entries_of_others(owner)
    return [key for key in Record(owner).keys if key not in others]


def _stale(request: Mapping[str, Any]) -> Set[str]:
    """Return the owner's units that a killed run still had to restart."""
    from freehold_agent.records import Record

    return Record(_owner(request)).stale


def _resources(request: Mapping[str, Any]) -> List[Resource]:
    try:
        return [from_json(entry) for entry in request.get("resources", ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest("the request's resources make no sense: {}".format(error)) from error
