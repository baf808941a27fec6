"""Sizes of volumes as claims name them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold_controller.volume_provisioner.volume_objects import quantity


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("1", 1),
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("500M", 500000000),
        ("1e9", 10**9),
        ("100m", 1),
        ("0", 0),
    ],
)
def test_quantities(text: str, bytes_: int) -> None:
    """As Kubernetes reads them, rounded up."""
    assert quantity(text) == bytes_


@given(st.text(max_size=12))
def test_other_texts_are_no_quantities(text: str) -> None:
    """Anything is a number or a ValueError."""
    with contextlib.suppress(ValueError):
        assert quantity(text) >= 0
