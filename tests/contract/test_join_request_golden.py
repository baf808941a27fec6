"""What a machine with a token says and hears, as older and newer services and agents see it: version 1 stays.

The golden file was written by the release that introduced it. Never regenerate it: an agent that comes with the line
may be older than the service, or newer.
"""

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from freehold_agent import join_client
from freehold_agent.contract.join_document import BootstrapCredential
from freehold_agent.join_client import Refused, Reply, request_body
from freehold_bootstrap.join_service.joining import JoinRequest
from freehold_bootstrap.join_service.routes import STATUS

GOLDEN: Dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "join-request-v1.json").read_text(encoding="utf-8")
)


def test_an_agent_asks_like_that() -> None:
    """Of a machine's facts only three go over the wire, and what its interfaces have; one asked for only if given."""
    asked = GOLDEN["request"]
    facts = {**asked["facts"], "machine_id": "secret enough", "routes": []}
    assert request_body("w2", asked["claim"], asked["addresses"], facts) == asked
    assert request_body("w2", "c") == {"node": "w2", "claim": "c"}
    facts["interfaces"] = [
        {"name": "lo", "addresses": ["127.0.0.1/8"]},
        {"name": "eth0", "addresses": ["10.0.0.3/24"]},
    ]
    said = request_body("w2", asked["claim"], asked["addresses"], facts)
    assert said == {**asked, "facts": {**asked["facts"], "addresses": ["10.0.0.3"]}}
    assert JoinRequest.from_json(json.dumps(said).encode()).own == ("10.0.0.3",)


def test_a_service_understands_it() -> None:
    """The service reads node, claim and addresses, and takes no offence at what it does not know."""
    asked = {**GOLDEN["request"], "later": {"more": True}}
    request = JoinRequest.from_json(json.dumps(asked).encode())
    assert (request.node, request.addresses, request.claim) == ("w2", ("10.0.0.3",), asked["claim"])


def test_an_agent_understands_the_answers() -> None:
    """A credential is a token and its end; a refusal is a sentence and a word."""
    given = BootstrapCredential.from_json(GOLDEN["credential"])
    assert given is not None
    assert given.token == "abcdef.0123456789abcdef"
    with pytest.raises(Refused, match="has expired") as caught:
        join_client._judged(Reply(403, {}, json.dumps(GOLDEN["refusal"]).encode()))
    assert caught.value.reason == "expired"


@pytest.mark.parametrize("reason", GOLDEN["statuses"]["refused"])
def test_refusals_keep_their_status(reason: str) -> None:
    """By status and word an agent tells what ends a join from what passes."""
    status = GOLDEN["statuses"]["refused"][reason]
    assert STATUS.get(reason, 403) == status
    body = json.dumps({"error": "no", "reason": reason}).encode()
    with pytest.raises(Refused):
        join_client._judged(Reply(status, {}, body))


@pytest.mark.parametrize("status", GOLDEN["statuses"]["again"])
def test_what_passes_is_asked_again(status: int) -> None:
    """A control plane that starts, or a proxy in front of it, ends no join."""
    with pytest.raises(join_client._TryAgainError) as caught:
        join_client._judged(Reply(status, {"retry-after": "2"}, b"not JSON"))
    assert caught.value.pause == 2.0
