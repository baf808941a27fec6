"""The control plane that all tests of trust share: made by the first that asks, ended after the last."""

from collections.abc import Iterator

import pytest
from tests.support.control_plane_on_loopback import ControlPlane, running


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane on loopback, with join service and controller."""
    with running(tmp_path_factory.mktemp("control-plane")) as control_plane:
        print(
            "control plane on loopback: ",
            ", ".join(f"{what} {t:.1f} s" for what, t in control_plane.times.items()),
        )
        yield control_plane
