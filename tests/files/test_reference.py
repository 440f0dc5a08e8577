"""The reference of flow files has the tables that the forms give. Its flows are tested with those of all pages."""

from __future__ import annotations

import re

import pytest

from files.reference import PAGE, TABLES, table
from penstock.flowfile import Diagnostics, read_document
from penstock.flowfile.models import SHARED_FILE
from penstock.support.environment import variable_names

TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """Return the text under a heading, up to the next one."""
    return TEXT.split(f"# {title}\n", 1)[1].split("\n#", 1)[0]


@pytest.mark.parametrize("title", TABLES)
def test_every_key_is_documented(title: str) -> None:
    """In the table of its section, with the text of its form. To renew the tables: `python -m files.reference`."""
    found = re.findall(r"^\| key .*\n(?:\|.*\n)+", section(title), re.MULTILINE)
    assert found == [table(title)]


def test_the_yaml_of_the_page_is_valid() -> None:
    """Blocks that are not flows are files that flows include, or comments."""
    for block in BLOCKS:
        if not block.startswith(("flow:", "#")):
            assert shared_errors(block) == []
        assert len(variable_names(block)) == block.count(":-")


def shared_errors(text: str) -> list[str]:
    """Return the errors of a file that flows include."""
    errors = Diagnostics()
    SHARED_FILE.read(read_document(text, "page.yaml"), errors)
    return [str(error) for error in errors]
