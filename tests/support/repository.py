"""The files of this repository, those not yet committed among them."""

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def files(pattern: str) -> list[Path]:
    """Return the files that git knows or would take, by a pattern of names."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [CHECKOUT / name for name in listed.stdout.splitlines()]
