"""The table of ports against what is rendered: no program is told to listen where preflight does not look."""

import re

from tests.support.a_machine import a_control_plane, a_node_of_each_kind

from freehold_agent.contract import ports
from freehold_agent.contract.resources import File, Resource

ADDRESS_WITH_PORT = re.compile(r"(?:127\.0\.0\.1|\[::1\]|0\.0\.0\.0|10\.73\.0\.\d+|\.):(\d{2,5})\b")
PORT_OF_ITS_OWN = re.compile(r'"port": (\d+)|--(?:secure-)?port=(\d+)')


def numbers(resources: list[Resource]) -> set[int]:
    """Return every port that a rendered file names: to listen on, or to reach a neighbour at."""
    found = set()
    for resource in resources:
        if isinstance(resource, File) and not resource.secret:
            text = resource.content.decode(errors="replace")
            found |= {int(number) for number in ADDRESS_WITH_PORT.findall(text)}
            found |= {int(one or other) for one, other in PORT_OF_ITS_OWN.findall(text)}
    return found


def test_every_rendered_port_is_in_the_table() -> None:
    """Unit files and configurations of control plane and node name no port that the table does not know."""
    known = {port.number for port in (*ports.control_plane_ports(), *ports.node_ports())}
    assert numbers(a_control_plane()) <= known
    assert numbers(a_node_of_each_kind()) <= known


def test_ports_that_are_not_a_programs_default_are_rendered() -> None:
    """What the table says of etcd, DNS, our services and kube-proxy is what they are told."""
    own = {port.number for port in (*ports.ETCD, *ports.DNS)} | {6443, 6444, 6445}
    assert own <= numbers(a_control_plane())
    assert {port.number for port in ports.PROXY} <= numbers(a_node_of_each_kind())
