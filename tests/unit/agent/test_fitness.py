"""What says whether a machine is fit, where it is not a sentence (those: the installer's test_phases_preflight)."""

import pytest

from freehold_agent.contract.fitness import version


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("4.18.0-513.5.1.el8_9.x86_64", (4, 18, 0)),
        ("6.12.0+rpt-rpi-v8", (6, 12, 0)),
        ("5.13", (5, 13)),
        ("1.0.6rc1", (1, 0, 6)),
        ("3.9.0rc1", (3, 9, 0)),
        ("", ()),
        ("unknown", ()),
    ],
)
def test_a_version_is_its_leading_numbers(text: str, numbers: "tuple[int, ...]") -> None:
    """Digits after the first letter belong to a candidate or a package, never to the version's last number."""
    assert version(text) == numbers
