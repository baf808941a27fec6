"""`freehold-agent` on a node: the resident loop, and what a person asks for on the machine itself.

Data goes to stdout, everything else to stderr; a failure is one message, never a traceback.
"""

import argparse
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence

from freehold_agent import __version__
from freehold_agent.contract.join_document import DocumentError
from freehold_agent.errors import AgentError
from freehold_agent.machine.lock import LockBusyError
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import SystemdError

if TYPE_CHECKING:
    from freehold_agent.join_node import Wish

EXIT_OK, EXIT_FAILED, EXIT_CHANGES, EXIT_INPUT, EXIT_UNFIT, EXIT_UNREACHABLE, EXIT_LOCKED = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
)
EXIT_INTERRUPTED = 130
STATUS_OF_KIND = {
    "input": EXIT_INPUT,
    "refused": EXIT_INPUT,
    "unfit": EXIT_UNFIT,
    "unreachable": EXIT_UNREACHABLE,
    "locked": EXIT_LOCKED,
}
EPILOG = """exit codes:
  0    done, nothing differs
  1    a step failed; status: the agent does not run, has not looked, or its look did not end well
  2    plan: something differs from the document
  3    bad input: command line, document or join token; this machine is no node
  4    the machine lacks something that only its owner can provide
  5    no control plane answers, or not the one meant, or the clocks differ
  6    another run is changing this machine
  130  interrupted
"""

Verb = Callable[[argparse.Namespace], int]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    verb: Verb = options.verb
    try:
        return verb(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED
    except AgentError as error:
        return _fail(error.to_json())
    except DocumentError as error:
        return _fail({"message": str(error), "kind": "input"})
    except LockBusyError as error:
        return _fail({"message": str(error), "hint": "wait for it and try again", "kind": "locked"})
    except (SystemdError, ProgramFailed) as error:
        return _fail({"message": str(error), "detail": getattr(error, "journal", "")})
    except PermissionError as error:
        return _fail({"message": str(error), "hint": "run it as root", "kind": "unfit"})
    except OSError as error:
        return _fail({"message": str(error)})


class _Parser(argparse.ArgumentParser):
    """argparse ends with 2 on a bad command line; here 2 means that a plan has changes."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_INPUT, "{}: {}\n".format(self.prog, message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="freehold-agent",
        description="Keeps this machine a node of its cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, verb: Verb, text: str, output: bool = False) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=text, description=text)
        command.set_defaults(verb=verb)
        if output:
            command.add_argument(
                "--output", choices=("text", "json"), default="text", help="form of the answer"
            )
        return command

    add("run", _run, "keep this node as its document says, until stopped (the service does this)")
    add("status", _status, "say how this node stands; exit code 0: well, 1: not", output=True)
    add("facts", _facts, "say what is true of this machine", output=True)
    add("plan", _plan, "say what differs from the document; changes nothing", output=True)
    add("converge", _converge, "put back what differs, once")
    leave = add("leave", _leave, "remove everything freehold made on this machine")
    leave.add_argument("--yes", action="store_true", help="do it without asking")
    add("end-pods", _end_pods, "end all pods, if the machine is going down (a service does this)")
    join = add("join-node", _join_node, "make this machine a node, with a token of `freehold token create`")
    join.add_argument(
        "--server", action="append", required=True, help="join service, https://ADDRESS:6444; may be repeated"
    )
    join.add_argument("--ca", required=True, help="file with the cluster's CA certificate (PEM)")
    join.add_argument("--node", required=True, help="the name that the token is for")
    join.add_argument("--address", action="append", help="must be one that the token admits; may be repeated")
    renew = add("renew", _renew, "get a new certificate for this node with a token; everything else stays")
    for command in (join, renew):
        command.add_argument(
            "--token-file", default="", help="read the token here; `-`: standard input; else it is asked for"
        )
    add("version", _version, "print the agent's version")
    return parser


def _run(_options: argparse.Namespace) -> int:
    from freehold_agent.keep import run

    return run()


def _status(options: argparse.Namespace) -> int:
    from freehold_agent.status import as_text, gather_status, is_well

    status = gather_status()
    _print(json.dumps(status, indent=1) if options.output == "json" else as_text(status))
    return EXIT_OK if is_well(status) else EXIT_FAILED


def _facts(options: argparse.Namespace) -> int:
    from freehold_agent.facts import gather
    from freehold_agent.facts_text import as_text

    if os.geteuid() != 0:
        _say("not root: what only root can see is left out")
    facts = gather()
    # A proxy's address may hold a password.
    facts["proxy"] = sorted(facts["proxy"])
    if options.output == "json":
        _print(json.dumps(facts, indent=1))
    else:
        _print(as_text(facts))
    return EXIT_OK


def _plan(options: argparse.Namespace) -> int:
    result = _remote({"verb": "plan"})
    changes: List[Dict[str, Any]] = result["changes"]
    if options.output == "json":
        _print(json.dumps(changes, indent=1))
    else:
        _print("\n".join(_line(change) for change in changes) or "nothing differs")
    return EXIT_CHANGES if changes else EXIT_OK


def _converge(_options: argparse.Namespace) -> int:
    from freehold_agent.repair import Host, repair

    changes = repair(Host(), lambda _event: None)
    _print("\n".join(_line(change.to_json()) for change in changes) or "nothing differs")
    return EXIT_OK


def _leave(options: argparse.Namespace) -> int:
    if not options.yes:
        return _fail(
            {
                "message": "leave removes everything freehold made here: pods with their data, and a control plane too",
                "hint": "freehold-agent leave --yes",
                "kind": "input",
            }
        )
    result = _remote({"verb": "leave"}, with_document=False)
    _print("removed {} things".format(len(result.get("changes", ()))))
    return EXIT_OK


def _end_pods(_options: argparse.Namespace) -> int:
    from freehold_agent.remains.pods import end_pods, machine_goes_down

    if not machine_goes_down():
        _print("the machine is not going down: nothing is ended")
        return EXIT_OK
    late = end_pods()
    _print("pods ended" + (", {} of their processes were killed".format(len(late)) if late else ""))
    return EXIT_OK


def _join_node(options: argparse.Namespace) -> int:
    from freehold_agent.join_node import Wish

    try:
        with open(options.ca, encoding="ascii") as stream:
            ca_pem = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        return _fail({"message": "no CA certificate: {}".format(error), "kind": "input"})
    wish = Wish(options.server, ca_pem, options.node, options.address or ())
    return _joined(wish, options.token_file)


def _renew(options: argparse.Namespace) -> int:
    from freehold_agent.join_node import renewal

    return _joined(renewal(), options.token_file)


def _joined(wish: "Wish", token_file: str) -> int:
    from freehold_agent.join_node import join_node, read_token

    if os.geteuid() != 0:
        return _fail({"message": "only root can make this machine a node", "hint": "sudo", "kind": "unfit"})
    os.umask(0o022)
    summary = join_node(wish, lambda: read_token(token_file, wish.node), _say, _tell)
    _say("{} is a node of the cluster ({:.1f} s)".format(wish.node, summary.seconds))
    return EXIT_OK


def _tell(event: Mapping[str, Any]) -> None:
    """Show a person what takes time: the steps, and units that were started."""
    if event.get("event") == "step":
        _say(str(event["title"]))
    key = str(event.get("key", ""))
    if event.get("event") == "change" and event.get("state") == "done" and key.startswith("unit:"):
        _say("started " + key[len("unit:") :])


def _say(text: str) -> None:
    sys.stderr.write("freehold-agent: {}\n".format(text))
    sys.stderr.flush()


def _version(_options: argparse.Namespace) -> int:
    _print("freehold-agent " + __version__)
    return EXIT_OK


def _remote(request: Dict[str, Any], with_document: bool = True) -> Dict[str, Any]:
    """Perform a verb of `freehold_agent.remote` here: what people and the installer see is the same."""
    from freehold_agent.document import read_document
    from freehold_agent.remote import perform

    lines: List[Mapping[str, Any]] = []
    if with_document:
        request = {**request, "document": read_document().to_json()}
    perform(request, io.BytesIO(), lines.append)
    outcome = lines[-1]
    for line in lines:
        if line.get("event") == "note":
            sys.stderr.write("freehold-agent: {}\n".format(line["text"]))
    if "error" in outcome:
        raise _ToldError(outcome["error"])
    result: Dict[str, Any] = outcome["result"]
    return result


class _ToldError(AgentError):
    """A failure that a verb has already put into words."""

    def __init__(self, told: Mapping[str, str]) -> None:
        super().__init__(told["message"], hint=told.get("hint", ""), detail=told.get("detail", ""))
        self.kind = told.get("kind", "step")


def _fail(told: Mapping[str, str]) -> int:
    sys.stderr.write("freehold-agent: {}\n".format(told["message"]))
    if told.get("detail") and told.get("kind") == "step":
        sys.stderr.write("".join("  {}\n".format(line) for line in told["detail"].splitlines()))
    if told.get("hint"):
        sys.stderr.write("  try: {}\n".format(told["hint"]))
    return STATUS_OF_KIND.get(told.get("kind", ""), EXIT_FAILED)


def _line(change: Mapping[str, Any]) -> str:
    sign = {"create": "+", "update": "~", "delete": "-"}.get(change["action"], "?")
    title = " ({})".format(change["title"]) if change.get("title") else ""
    return "{} {}{}".format(sign, change["key"], title)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
