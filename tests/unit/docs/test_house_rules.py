"""What CONTRIBUTING.md says of files and no linter looks at."""

from tests.support.repository import CHECKOUT, files

LONGEST = 400


def test_no_python_file_is_too_long() -> None:
    """No file of the repository has more lines than CONTRIBUTING.md allows."""
    assert f"never more than {LONGEST}" in (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = {str(file): len(file.read_bytes().splitlines()) for file in files("*.py") if file.exists()}
    assert len(lines) > 100
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
