"""A file of YAML or JSON, read with the place of every value.

Both give the same nodes, so that what reads them need not know how a file was written. YAML is read by the
rules of YAML 1.2 whatever PyYAML thinks: `on`, `no`, `1:30`, `12_000` and dates are texts.
"""

from __future__ import annotations

from pathlib import PurePath

from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Node
from penstock.flowfile.json_reader import read_json
from penstock.flowfile.yaml_reader import read_yaml

__all__ = ["FORMATS", "read_document"]

FORMATS = {"yaml": read_yaml, "yml": read_yaml, "json": read_json}
"""The formats by the endings of their files."""


def check_ending(file: str, mistakes: Diagnostics) -> None:
    """Raise `FlowFileError` for a TOML file, which flow files were written in once."""
    if PurePath(file).suffix.lower() == ".toml":
        mistakes.add(SourceLocation(file, 1, 1), "flow files are not written in TOML", hint="write it as YAML or JSON")
        mistakes.check()


def read_document(text: str, file: str, format: str | None = None) -> Node:
    """The document in this text; `file` is the name that mistakes carry, and its ending chooses the format.

    Raises `FlowFileError` with every mistake that does not depend on what the document is for: a syntax error,
    a key that stands twice, and whatever of YAML a flow file has no use for.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"the format has to be one of {', '.join(FORMATS)}, got {format!r}")

    mistakes = Diagnostics()
    ending = format or PurePath(file).suffix.removeprefix(".").lower()
    if format is None:
        check_ending(file, mistakes)
    if ending not in FORMATS:
        endings = [f".{known}" for known in FORMATS]
        mistakes.add(SourceLocation(file, 1, 1), "the name of the file does not tell its format", allowed=endings)
        mistakes.check()
    node = FORMATS[ending](text.removeprefix("\ufeff"), file, mistakes)
    mistakes.check()
    return node
