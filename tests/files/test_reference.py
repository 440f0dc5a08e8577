"""The reference page of flow files says what the model says; that its flows are well is tested with all pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from files.reference import TABLES, table
from penstock.flowfile import Diagnostics, read_document
from penstock.flowfile.models import SHARED_FILE
from penstock.support.environment import variable_names

PAGE = Path(__file__).parents[2] / "flows" / "FILES.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """What stands under a heading, up to the next one."""
    return TEXT.split(f"# {title}\n", 1)[1].split("\n#", 1)[0]


@pytest.mark.parametrize("title", TABLES)
def test_every_key_of_the_model_is_told(title: str) -> None:
    """In the table of its section, in the words of the model; and nothing is told that is none."""
    found = re.findall(r"^\| key .*\n(?:\|.*\n)+", section(title), re.MULTILINE)
    assert found == [table(title)]


def test_the_pieces_of_yaml_on_the_page_are_well() -> None:
    """Those that are no flow of their own are files that flows use, or comments."""
    for block in BLOCKS:
        if not block.startswith(("flow:", "#")):
            assert shared_mistakes(block) == []
        assert len(variable_names(block)) == block.count(":-")


def shared_mistakes(text: str) -> list[str]:
    """What is wrong in a file that flows use."""
    mistakes = Diagnostics()
    SHARED_FILE.read(read_document(text, "page.yaml"), mistakes)
    return [str(mistake) for mistake in mistakes]


def test_links_within_the_page_lead_somewhere() -> None:
    """To headings that there are."""
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in TEXT.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings
