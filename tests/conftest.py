"""For all tests: what keeps one of them from seeing the machine of whoever runs it, or the machines of another."""

import os
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let several processes run tests beside each other that have machines of their own."""
    if config.getvalue("dist") != "loadscope":
        return None
    from tests.support.processes import BySharedMachines

    return BySharedMachines(config, log)


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_the_user() -> None:
    """Settings of whoever runs the tests have no effect on what is tested."""
    for name in (
        "KUBECONFIG",
        "FREEHOLD_INVENTORY",
        "FREEHOLD_LAB",
        "FREEHOLD_LAB_SHAPE",
        "FREEHOLD_LAB_SUBNET",
    ):
        os.environ.pop(name, None)
