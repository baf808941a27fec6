"""A machine joins by itself: a person's token in, a node out. Also: a node whose certificate has expired.

The same steps as over SSH (`join.join`), with documents and credentials from the join service and artifacts from
the artifact service. It can be killed and run again at any time: it calls itself the same until it has joined. The
token is kept in memory only.
"""

import dataclasses
import getpass
import os
import re
import secrets
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from freehold_agent.contract import firewall, fitness, paths, ports
from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.converge import Deliverer, Progress, Summary
from freehold_agent.document import read_document
from freehold_agent.errors import BadRequest, Unfit
from freehold_agent.fetch import Fetcher
from freehold_agent.join import Host, credential_valid, join, settle
from freehold_agent.join_client import JoinClient, Refused, Unreachable, request_body
from freehold_agent.machine import files
from freehold_agent.records import OWNERS, Record
from freehold_agent.store import HashCache

LONGEST_TOKEN = 512
ONE_LOOK = 5.0
"""Seconds to go on asking whether an interrupted join got as far as a certificate."""
_TOKEN = re.compile(r"fh1\.[a-z0-9]{10}\.[a-z0-9]{52}")
_PROXIES = {
    "http": ("HTTP_PROXY", "http_proxy"),
    "https": ("HTTPS_PROXY", "https_proxy"),
    "no": ("NO_PROXY", "no_proxy"),
}

TokenSource = Callable[[], str]


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    servers: Sequence[str]
    """Join services, `https://host:port`."""
    ca_pem: str
    node: str
    addresses: Sequence[str] = ()
    """Must be among those the token admits; empty: what the token says, else the one the service sees."""


@dataclass(frozen=True)
class Surroundings:
    """What joining needs beside the machine itself; tests put their own in its place."""

    host: Host = field(default_factory=Host)
    client: Callable[..., JoinClient] = JoinClient
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    owners: Callable[[], List[str]] = lambda: [owner for owner in OWNERS if Record(owner).keys]
    fetch: Callable[[JoinDocument], Any] = lambda document: Fetcher(
        document.artifact_endpoints, document.ca_pem
    )


def join_node(
    wish: Wish,
    token: TokenSource,
    say: Callable[[str], None],
    progress: Progress,
    surroundings: Optional[Surroundings] = None,
) -> Summary:
    """Make this machine the node of that name and return what changed.

    `token` is asked only when one is needed. Raises BadRequest, Unfit, Refused, Unreachable, Locked, StepFailed,
    DeliveryFailed.
    """
    return _JoinNode(wish, token, say, progress, surroundings or Surroundings()).run()


class _JoinNode:
    def __init__(
        self,
        wish: Wish,
        token: TokenSource,
        say: Callable[[str], None],
        progress: Progress,
        around: Surroundings,
    ) -> None:
        self._wish = wish
        self._ask_token = token
        self._say = say
        self._progress = progress
        self._around = around
        self._proxy = proxy_of(around.environment)
        self._host = dataclasses.replace(around.host, facts=self._facts)
        self._root = around.host.root
        self._certificate = self._root + paths.KUBELET_CLIENT_CERTIFICATE
        self._client = around.client(wish.servers, wish.ca_pem, say=say)

    def run(self) -> Summary:
        kept = self._kept()
        owners = self._around.owners()
        self._refuse_other(kept, owners)
        facts = self._facts()
        _check(facts, installed=bool(owners))
        self._client.check_clock()
        newest = self._membership(kept) if kept is not None else None
        if newest is not None:
            self._say("this machine is node {} already; what is missing is put in place".format(newest.node))
            return self._become(newest, None)
        token = self._ask_token()
        claim, fresh = self._claim()
        body = request_body(self._wish.node, claim, self._wish.addresses, facts)
        try:
            document = self._client.join(token, body)
        except Refused:
            if fresh:  # nothing was begun: the machine stays as it was
                files.remove(self._root + paths.JOIN_STATE)
            raise
        self._check_document(document, facts)
        self._say("admitted as {} ({})".format(document.node, ", ".join(document.addresses)))
        if self._proxy:
            self._say(
                "containerd pulls images through the proxy of the environment, the cluster is reached directly"
            )
        return self._become(document, lambda: self._client.credential(token, body))

    def _become(self, document: JoinDocument, credential: Any) -> Summary:
        fetcher = self._around.fetch(document)
        deliver: Deliverer = fetcher
        begun = time.monotonic()
        try:
            joined = join(document, credential or (lambda: None), deliver, self._progress, host=self._host)
            servers = document.join_endpoints
            self._around.client(servers, document.ca_pem, say=self._say).finish(self._certificate)
            files.remove(self._root + paths.JOIN_STATE)
            # It is Ready by now: what it was not kept waiting for, and durable bytes.
            settled = settle(document, deliver, self._progress, host=self._host)
        finally:
            fetcher.close()
        HashCache(self._root + paths.HASHES).settle()
        return Summary((*joined.changes, *settled.changes), time.monotonic() - begun)

    def _facts(self) -> Dict[str, Any]:
        """Return the machine's facts with the proxy of our environment: from now on it is one of them."""
        facts = self._around.host.facts()
        return {**facts, "proxy": self._proxy} if self._proxy else facts

    def _kept(self) -> Optional[JoinDocument]:
        """Return the document this machine has, None when it has none that can be read."""
        try:
            with open(self._root + paths.JOIN_DOCUMENT, "rb") as stream:
                return JoinDocument.loads(stream.read())
        except (OSError, DocumentError):
            return None

    def _refuse_other(self, kept: Optional[JoinDocument], owners: Sequence[str]) -> None:
        if "control" in owners:
            raise BadRequest(
                "this machine is a control plane; it is a node by its inventory only",
                hint="freehold apply on the operator's machine",
            )
        if kept is None:
            return
        leave = "to take it out first: freehold-agent leave --yes"
        if _plain(kept.ca_pem) != _plain(self._wish.ca_pem):
            raise BadRequest(
                "this machine is node {} of another cluster, {}".format(kept.node, kept.cluster), hint=leave
            )
        if kept.node != self._wish.node:
            raise BadRequest(
                "this machine is node {} of this cluster, not {}".format(kept.node, self._wish.node),
                hint=leave,
            )

    def _membership(self, kept: JoinDocument) -> Optional[JoinDocument]:
        """Return the newest document if the cluster still knows this machine as that very node, else None."""
        if not kept.node_uid or not credential_valid(kept, self._host.now(), self._root):
            return None
        begun = bool(self._unfinished())
        try:
            stored = self._client.document(kept.node, self._certificate, ONE_LOOK if begun else None)
        except Unreachable:
            if not begun:
                raise
            # A join that was cut short has replaced the node of this certificate. For minutes the service takes the
            # certificate for a new one that it has not heard of yet; the token helps at once.
            return None
        return stored if stored is not None and stored.node_uid == kept.node_uid else None

    def _claim(self) -> "tuple[str, bool]":
        """Return what this machine calls itself, and whether it is new: random, kept until it has joined or is
        started anew. Not the machine id: copies of one disk image have the same.
        """
        claim = self._unfinished()
        if claim:
            return claim, False
        claim = secrets.token_hex(32)
        files.write_json(self._root + paths.JOIN_STATE, {**self._purpose(), "claim": claim}, 0o600)
        return claim, True

    def _unfinished(self) -> str:
        """Return what this machine called itself in a join that was cut short, empty when there was none."""
        try:
            state = files.read_json(self._root + paths.JOIN_STATE)
        except (OSError, ValueError):
            return ""
        purpose = self._purpose()
        if not isinstance(state, dict) or any(state.get(name) != value for name, value in purpose.items()):
            return ""
        claim = state.get("claim")
        return claim if isinstance(claim, str) else ""

    def _purpose(self) -> Dict[str, str]:
        return {"node": self._wish.node, "ca": _plain(self._wish.ca_pem)}

    def _check_document(self, document: JoinDocument, facts: Mapping[str, Any]) -> None:
        """Raise for a document of another node or cluster, or whose networks this machine uses already."""
        if document.node != self._wish.node or _plain(document.ca_pem) != _plain(self._wish.ca_pem):
            raise BadRequest("the join service answered with the document of another node or cluster")
        network = document.network
        networks = [("the cluster's pod network", cidr) for cidr in network.pod_cidrs]
        networks += [("the cluster's Service network", cidr) for cidr in network.service_cidrs]
        # flannel's routes to other nodes' pods, on a machine that was a node before.
        ours = bool(facts.get("release"))
        problems = fitness.overlaps(facts, networks, lambda route: ours and bool(route.get("via")))
        if not self._around.owners():
            vxlan = network.flannel and network.backend == "vxlan"
            problems += fitness.ports_in_use(facts, ports.network_ports(network.kube_proxy, vxlan))
            needed = ports.node_ports(network.kube_proxy, vxlan)
            problems += firewall.problems(facts, document.addresses[0], needed, network.pod_cidrs)
        _raise_unfit(problems)


def proxy_of(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return `http`, `https` and `no` of an environment; empty without a proxy. Raises BadRequest."""
    found: Dict[str, str] = {}
    for name, variables in _PROXIES.items():
        value = next((environment[variable] for variable in variables if environment.get(variable)), "")
        if not value.isprintable():
            raise BadRequest("{} in the environment is not one line of text".format(variables[0]))
        if value:
            found[name] = value
    return found if set(found) & {"http", "https"} else {}


def renewal(root: str = "") -> Wish:
    """Return the wish of a node that asks for a new certificate. Raises NotJoinedError, DocumentError."""
    document = read_document(root)
    return Wish(document.join_endpoints, document.ca_pem, document.node)


def read_token(file: str, node: str) -> str:
    """Return the token from a file, from standard input (`-`, or when it is no terminal), or typed without echo.

    Raises BadRequest, which never repeats what was read.
    """
    how = "--token-file FILE, or type it on a terminal"
    try:
        if file and file != "-":
            with open(file, encoding="ascii", errors="replace") as stream:
                text = stream.read(LONGEST_TOKEN)
        elif file == "-" or not sys.stdin.isatty():
            text = sys.stdin.readline(LONGEST_TOKEN)
        else:
            text = getpass.getpass("join token for {}: ".format(node))
    except EOFError:
        text = ""
    except OSError as error:
        raise BadRequest("the token cannot be read: {}".format(error), hint=how) from error
    text = text.strip()
    if not text:
        raise BadRequest("a join token is needed and none was given", hint=how)
    if not _TOKEN.fullmatch(text):
        raise BadRequest(
            "that is no join token, or not all of it: it looks like fh1.ID.SECRET",
            hint="freehold token create --node {}".format(node),
        )
    return text


def _check(facts: Mapping[str, Any], installed: bool) -> None:
    problems = [*fitness.system(facts), *fitness.selinux(facts)]
    problems += [*fitness.tools(facts), *fitness.strangers(facts)]
    if not installed:
        problems += fitness.linked(facts)
        problems += fitness.ports_in_use(facts, ports.NODE)
        problems += fitness.room(facts, fitness.NODE_MEMORY, fitness.NODE_DISK)
    _raise_unfit(problems)


def _raise_unfit(problems: Sequence[str]) -> None:
    if problems:
        raise Unfit("this machine cannot be a node: " + "; ".join(problems))


def _plain(pem: str) -> str:
    return "".join(pem.split())
