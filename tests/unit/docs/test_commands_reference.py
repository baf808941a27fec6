"""docs/reference/commands.md against the command lines."""

from pathlib import Path

from tests.support.commands_reference import markdown

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "commands.md"


def test_the_page_says_what_the_programs_say():
    """The committed page is what the generator writes from the commands' own help."""
    written = markdown()
    assert PAGE.read_text(encoding="utf-8") == written, (
        "run: .venv/bin/python -m tests.support.commands_reference > docs/reference/commands.md"
    )


def test_no_command_or_option_is_without_a_word():
    """Each command and each option says what it is for."""
    rows = [line for line in markdown().splitlines() if line.startswith("|") and not line.startswith("|---")]
    assert len(rows) > 40
    assert [row for row in rows if not row.strip("|").split("|")[-1].strip()] == []
