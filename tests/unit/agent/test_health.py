"""What the agent says of a certificate that does not renew and of programs that keep dying."""

from pathlib import Path

import pytest

from freehold_agent.certificate import CertificateFacts
from freehold_agent.contract import paths
from freehold_agent.health import RENEW, Health, certificate_trouble
from freehold_agent.machine.systemd import SystemdError

WEEK = 7 * 24 * 3600.0


@pytest.mark.parametrize("left", [WEEK, 0.3 * WEEK, 0.1 * WEEK])
def test_a_certificate_that_renews_is_no_news(left: float) -> None:
    """The kubelet renews with 30 to 10 % of the life left: until then nothing is said."""
    assert certificate_trouble("w1", CertificateFacts("system:node:w1", 0.0, WEEK), WEEK - left) == ""


def test_a_certificate_that_did_not_renew_is_told_before_it_ends() -> None:
    """There are hours left to look for the reason, and it says where."""
    told = certificate_trouble("w1", CertificateFacts("system:node:w1", 0.0, WEEK), WEEK * 0.95)
    assert "the certificate of node w1 expires at 1970-01-08 00:00:00 UTC" in told
    assert "journalctl -u kubelet" in told


def test_an_expired_certificate_names_both_commands() -> None:
    """What is wrong, the command for the operator, the one for this machine."""
    told = certificate_trouble("w1", CertificateFacts("system:node:w1", 0.0, WEEK), WEEK)
    assert "expired at 1970-01-08 00:00:00 UTC" in told
    assert "freehold node rejoin w1" in told
    assert RENEW in told


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    """Where there is none a join is on its way; one that cannot be read is told with what helps."""
    path = tmp_path / paths.KUBELET_CLIENT_CERTIFICATE[1:]
    path.parent.mkdir(parents=True)
    health = Health(Units().show, str(tmp_path))
    assert health.look("w1", 0.0) == ""
    path.write_bytes(content)
    told = health.look("w1", 0.0)
    assert told.startswith("the certificate of node w1 cannot be read (")
    assert "freehold node rejoin w1" in told
    assert RENEW in told


class Units:
    """systemd with restarts as a test says."""

    def __init__(self) -> None:
        self.restarts = 0
        self.drop_ins = ""

    def show(self, names: tuple[str, ...], _properties: object) -> dict[str, dict[str, str]]:
        calm = {"NRestarts": "0", "DropInPaths": ""}
        state = {"NRestarts": str(self.restarts), "DropInPaths": self.drop_ins}
        return {name: state if name == "kubelet.service" else calm for name in names}


def test_a_program_that_keeps_dying_is_told_until_it_lives() -> None:
    """Restarts that nobody asked for, in a minute; also when our own restart began the count anew."""
    units = Units()
    units.restarts = 40  # since the boot, long ago
    health = Health(units.show, "/nowhere")
    assert health.look("w1", 0.0) == ""
    units.restarts, units.drop_ins = 43, "/etc/systemd/system/kubelet.service.d/own.conf"
    told = health.look("w1", 60.0)
    assert told.startswith("kubelet does not stay up: journalctl -u kubelet")
    assert units.drop_ins in told
    units.restarts = 1
    assert health.look("w1", 120.0) == told, "it has died again since"
    assert health.look("w1", 180.0) == "", "it lives"
    units.restarts = 3
    assert health.look("w1", 240.0) == "", "two more in a minute: it was killed, and is back"


def test_many_looks_hide_no_death() -> None:
    """A program that dies every few seconds is told however often glances call for a look, and told once."""
    units = Units()
    health = Health(units.show, "/nowhere")
    said = []
    for second in range(0, 120, 10):
        units.restarts += second % 20 == 0
        said.append(bool(health.look("w1", float(second))))
    assert said == [False] * 6 + [True] * 6
    assert [bool(health.look("w1", float(second))) for second in (125, 135, 145)] == [True, False, False]


def test_a_systemd_that_does_not_answer_is_no_news() -> None:
    """The look at resources says so."""

    def silent(*_: object) -> dict[str, dict[str, str]]:
        raise SystemdError("", "no answer")

    assert Health(silent, "/nowhere").look("w1", 0.0) == ""
