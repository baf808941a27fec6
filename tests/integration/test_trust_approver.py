"""The approver on a real API server: every good request is approved, every bad one denied, the others left alone."""

import random
import time
from datetime import timedelta
from itertools import pairwise

import pytest
from cryptography import x509
from tests.support import judged_requests as judged
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import (
    Machine,
    conditions,
    create_request,
    issued,
    next_key,
    outcome,
    serving_request,
    settled,
)

pytestmark = pytest.mark.bundle


def test_two_hundred_requests_at_once_half_of_them_bad(plane: ControlPlane) -> None:
    """Among 200 requests at the same time each gets the right verdict, and only good ones a certificate."""
    members = plane.many(lambda _: judged.with_certificate(plane), range(8))
    cases = [case for member in members for case in judged.good_of_member(member)]
    fresh = plane.many(lambda _: judged.admitted(plane), range(100 - len(cases)))
    cases += [judged.good_first(machine) for machine in fresh]
    bad = judged.bad_firsts(plane)
    for member, other in pairwise(members):
        bad += judged.bad_of_member(member, other)
    cases += bad[:100]  # the first two lists hold every kind
    assert len(cases) == 200
    random.Random(1).shuffle(cases)

    begun = time.monotonic()
    names = plane.many(lambda case: case.send(), cases)
    plane.requests.wait(lambda objects: all(settled(objects.get(name)) for name in names if name))
    print(f"{len(names)} requests, half of them bad: all settled in {time.monotonic() - begun:.2f} s")

    for case, name in zip(cases, names, strict=True):
        if not name:
            continue  # refused, as expected
        seen = conditions(plane.requests.get(name))
        assert case.met(seen), (case.what, seen)
        certificates = judged.certificates_seen(plane, name)
        assert len(certificates) == (case.expected[0] == judged.APPROVED), case.what
    for machine in fresh:
        assert len(judged.spendings(plane, machine)) == 1, "each token is spent once"
    plane.remove_all_nodes()


def test_two_keys_race_for_one_token(plane: ControlPlane) -> None:
    """Of eight keys that ask with the same token at the same time exactly one gets a certificate."""
    machine = judged.admitted(plane, "raced")
    names = plane.many(machine.first_request, [next_key() for _ in range(8)])
    outcomes = [outcome(plane, name) for name in names]
    assert outcomes.count((judged.APPROVED, "NodeJoins")) == 1
    assert outcomes.count((judged.DENIED, "TokenSpent")) == 7
    assert len(judged.spendings(plane, machine)) == 1


def test_the_same_key_may_ask_again(plane: ControlPlane) -> None:
    """A kubelet that lost the answer asks with the same key, and the token is not spent a second time."""
    machine, key = judged.admitted(plane, "retried"), next_key()
    names = [machine.first_request(key) for _ in range(3)]
    assert {outcome(plane, name) for name in names} == {(judged.APPROVED, "NodeJoins")}
    assert len(judged.spendings(plane, machine)) == 1


def test_the_certificates_say_what_was_asked_for(plane: ControlPlane) -> None:
    """A node's certificate is its own, for a week; its serving certificate names its name and addresses, no more."""
    machine = judged.with_certificate(plane)
    with open(machine.credential, "rb") as stream:
        client = x509.load_pem_x509_certificate(stream.read())
    served = x509.load_pem_x509_certificate(issued(plane, serving_request(machine)))
    for certificate, usage in ((client, x509.OID_CLIENT_AUTH), (served, x509.OID_SERVER_AUTH)):
        assert certificate.subject.rfc4514_string() == f"CN=system:node:{machine.node},O=system:nodes"
        extensions = certificate.extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert timedelta(days=6) < lifetime < timedelta(days=7, hours=1)
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [machine.node]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [machine.address]
    with pytest.raises(x509.ExtensionNotFound):
        client.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_no_lifetime_beyond_a_week(plane: ControlPlane) -> None:
    """A node that asks for a year gets a week: a removed one must not stay for long."""
    machine, key = judged.admitted(plane, "patient"), next_key()
    body = {"expirationSeconds": 365 * 86400}
    name = create_request(plane.api(token=machine.bootstrap), machine.client_pem(key), spec=body)
    certificate = x509.load_pem_x509_certificate(issued(plane, name))
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < timedelta(days=7, hours=1)


def test_other_signers_are_left_alone(plane: ControlPlane) -> None:
    """Requests to any other signer keep the state their owners left them in, whatever they ask for."""
    machine = Machine(plane, plane.name("stranger"), address=plane.node_address())
    signers = ("kubernetes.io/kube-apiserver-client", "example.com/mine")
    pem = machine.client_pem(next_key())
    names = [create_request(plane.admin, pem, signer=signer) for signer in signers]
    # Whatever comes later has been judged by the time a certificate of ours is there.
    judged.with_certificate(plane)
    assert [conditions(plane.requests.get(name)) for name in names] == [{}, {}]


def test_an_unadmitted_node_gets_nothing(plane: ControlPlane) -> None:
    """A Node that somebody made without admission gets no certificate, not even with a token of ours."""
    machine = judged.admitted(plane, "known")
    stranger = plane.name("unadmitted")
    plane.admin.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": stranger}})
    pretender = Machine(plane, stranger, bootstrap=machine.bootstrap)
    assert outcome(plane, pretender.first_request(next_key())) == (judged.DENIED, "TokenForOtherNode")
    pair = plane.certificate("system:node:" + stranger, "system:nodes")
    name = create_request(plane.api(pair), pretender.client_pem(next_key()))
    plane.requests.wait(lambda objects: name in objects)
    assert conditions(plane.requests.get(name)) == {}, "its record may still be on its way"


def test_renewals_follow_one_another(plane: ControlPlane) -> None:
    """Each certificate renews, the one before it still does, and both may ask for a serving certificate."""
    machine = judged.with_certificate(plane)
    first = machine.credential
    for _ in range(3):
        key = next_key()
        previous = machine.credential
        machine.certified(create_request(machine.api(), machine.client_pem(key)), key)
        assert machine.credential != previous
        assert outcome(plane, serving_request(machine)) == (judged.APPROVED, "NodeServes")
    machine.credential = first
    assert outcome(plane, serving_request(machine)) == (judged.APPROVED, "NodeServes")
