"""What CONTRIBUTING.md says of files and no linter looks at."""

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
LONGEST = 400


def test_no_python_file_is_too_long() -> None:
    """No file of the repository has more lines than CONTRIBUTING.md allows."""
    assert f"never more than {LONGEST}" in (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [CHECKOUT / name for name in listed.stdout.splitlines()]
    lines = {str(file): len(file.read_bytes().splitlines()) for file in files if file.exists()}
    assert len(lines) > 100
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
