"""The gate before an API server that starts: closed by its unit, opened by who waits for it, never closed for long."""

import configparser
import dataclasses

from tests.support.a_control_plane import a_context

from freehold_agent.contract.resources import File
from freehold_installer.desired import api_gate
from freehold_installer.desired.cluster import control_plane_resources
from freehold_installer.desired.control_plane_context import ControlPlaneContext

CLOSE = f"-/usr/sbin/nft -f {api_gate.RULES}"


def unit(context: ControlPlaneContext, name: str, section: str = "Service") -> dict[str, str]:
    """Return a section of a unit."""
    path = f"/etc/systemd/system/{name}.service"
    text = next(r.content for r in control_plane_resources(context) if isinstance(r, File) and r.path == path)
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text.decode())
    return dict(parser[section])


def test_it_is_closed_before_a_start_and_at_every_end() -> None:
    """Told to stop, killed or started: in each case connections wait, and a machine without nftables goes on."""
    settings = unit(a_context(), "kube-apiserver")
    assert {settings[name] for name in ("ExecStartPre", "ExecStop", "ExecStopPost")} == {CLOSE}


def test_it_opens_when_the_api_is_ready() -> None:
    """Who waits for readiness asks at the loopback address, which is always open, and opens it for the others."""
    settings = unit(a_context(), "freehold-api-ready")
    assert settings["ExecStartPost"] == "-/usr/sbin/nft flush set inet freehold closed"
    assert "--server=https://127.0.0.1:6443" in settings["ExecStart"]


def test_an_api_server_started_alone_opens_it_too() -> None:
    """An operator stops and starts the API server by hand: who opens the gate is started with it."""
    assert "freehold-api-ready.service" in unit(a_context(), "kube-apiserver", "Unit")["Wants"].split()


def test_nothing_can_leave_it_closed() -> None:
    """What closes it is an entry that ends by itself; only attempts to connect are dropped, and none from loopback."""
    rules = api_gate.rules().content.decode()
    assert f"closed {{ 6443 timeout {api_gate.CLOSED}s }}" in rules
    drops = [line.strip() for line in rules.splitlines() if "drop" in line]
    assert drops == ["tcp dport @closed tcp flags & (syn | ack) == syn drop"]
    assert rules.index("ip saddr 127.0.0.0/8 accept") < rules.index(drops[0])


def test_several_control_planes_have_none() -> None:
    """There a refusal sends the client to another one."""
    single = a_context()
    hosts = {"cp1": single.host, "cp2": single.host}
    several = dataclasses.replace(single, inventory=dataclasses.replace(single.inventory, hosts=hosts))
    assert not {"ExecStartPre", "ExecStop", "ExecStopPost"} & unit(several, "kube-apiserver").keys()
    assert "ExecStartPost" not in unit(several, "freehold-api-ready")
    assert api_gate.rules() not in control_plane_resources(several)
