"""The header of a CSV file as text, together with the delimiter of the file.

The text is the header row as received. If the delimiter is not a comma, a line such as `sep=;` stands before it, which
spreadsheets read too. A header cannot begin like this by itself: a line break in it would be inside quotes.
"""

from __future__ import annotations

import re

_SEP = re.compile(r"sep=(.)\n", re.DOTALL)


def with_delimiter(header: str, delimiter: str) -> str:
    """Return the text for a header row and its delimiter."""
    return header if delimiter == "," else f"sep={delimiter}\n{header}"


def split_delimiter(text: str) -> tuple[str, str]:
    """Return the header row and its delimiter."""
    found = _SEP.match(text)
    return (text, ",") if found is None else (text[found.end() :], found[1])
