"""For all tests: what keeps one of them from seeing the machine of whoever runs it."""

import os

import pytest


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
