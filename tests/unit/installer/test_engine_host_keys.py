"""Host keys are never accepted in silence."""

import base64

import pytest

from freehold_installer.engine.endpoint import Endpoint, jump_command
from freehold_installer.engine.host_keys import HostKey, KnownHosts, NewKey, changed, settle
from freehold_installer.errors import InputError, UnreachableError


def key(text="one"):
    return HostKey("ssh-ed25519", base64.b64encode(text.encode()).decode())


def scanner(found):
    return lambda endpoints: [NewKey(item, found) for item in endpoints]


def forbidden(_):
    raise AssertionError("not expected to be called")


@pytest.fixture
def known(tmp_path):
    return KnownHosts(tmp_path / "known_hosts")


def test_unknown_keys_without_a_terminal_are_an_error_with_both_ways_on(known):
    """Nobody can be asked: the message has the fingerprint, the hint both the option and the inventory line."""
    with pytest.raises(UnreachableError) as caught:
        settle([Endpoint("cp1", "10.0.0.1")], known, scan=scanner(key()))
    assert key().fingerprint in caught.value.message
    assert "--accept-new-host-keys" in caught.value.hint
    assert f"cp1: hostKey: {key()}" in caught.value.hint
    assert not known.path.exists()


def test_a_refusal_on_the_terminal_pins_nothing(known):
    """A person who says no leaves no trace."""
    with pytest.raises(UnreachableError):
        settle([Endpoint("cp1", "10.0.0.1")], known, scan=scanner(key()), ask=lambda keys: False)
    assert not known.path.exists()


@pytest.mark.parametrize("how", [{"accept_new": True}, {"ask": lambda keys: True}])
def test_accepted_keys_are_pinned_once(known, how):
    """After one yes the machine is not asked for its key again."""
    endpoint = Endpoint("cp1", "10.0.0.1", 2222)
    settle([endpoint], known, scan=scanner(key()), **how)
    assert known.path.read_text() == f"[10.0.0.1]:2222 {key()}\n"
    assert known.path.stat().st_mode & 0o777 == 0o600
    assert not settle([endpoint], known, scan=forbidden)


def test_keys_of_the_inventory_win(known):
    """`hostKey` replaces what was pinned, and nothing is scanned."""
    endpoint = Endpoint("cp1", "10.0.0.1")
    known.pin([NewKey(endpoint, key("old")), NewKey(Endpoint("w1", "10.0.0.2"), key("w1"))])
    pinned = Endpoint("cp1", "10.0.0.1", host_keys=(f"{key('new')} comment",))
    settle([pinned], known, scan=forbidden)
    assert known.keys(endpoint) == (key("new"),)
    assert known.keys(Endpoint("w1", "10.0.0.2")) == (key("w1"),)


def test_an_unchanged_file_is_not_written(known):
    """A converged run leaves the inode alone."""
    endpoint = Endpoint("cp1", "10.0.0.1", host_keys=(str(key()),))
    settle([endpoint], known, scan=forbidden)
    inode = known.path.stat().st_ino
    settle([endpoint], known, scan=forbidden)
    assert known.path.stat().st_ino == inode


def test_a_changed_key_shows_both_fingerprints(known):
    """The message compares; the hint says how to forget the old key, and when not to."""
    error = changed(Endpoint("cp1", "10.0.0.1"), [key("old")], key("new"), known)
    assert key("old").fingerprint in error.message
    assert key("new").fingerprint in error.message
    assert "ssh-keygen -R '10.0.0.1'" in error.hint
    assert error.exit_code == 5


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 not-base64!", "ssh-dss AAAA"])
def test_nonsense_is_not_a_host_key(text):
    """A line that is no key is refused with an example."""
    with pytest.raises(InputError):
        HostKey.parse(text)


def test_a_jump_host_may_have_a_port():
    """`user@host:port` becomes options of ssh, never part of the host name."""
    assert jump_command("me@gate:2200", "[10.0.0.1]:22")[-4:] == ["-p", "2200", "--", "me@gate"]
    assert jump_command("gate", "[10.0.0.1]:22")[-2:] == ["--", "gate"]
