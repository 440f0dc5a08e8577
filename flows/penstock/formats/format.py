"""What a file holds, as its name tells it: NDJSON or CSV, compressed or not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePath

from penstock.errors import FlowDefinitionError


class Format(StrEnum):
    """How the values of a file are written."""

    NDJSON = "ndjson"
    """A value a line, as JSON."""
    CSV = "csv"
    """A row a value, whose fields are named by the first row (RFC 4180)."""


SUFFIXES = {".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".csv": Format.CSV}


def is_compressed(path: str) -> bool:
    """Whether a file is compressed with gzip, by its name."""
    return path.lower().endswith(".gz")


def known_format(path: str) -> Format | None:
    """The format that the name of a file tells; None when it tells none."""
    return SUFFIXES.get(_suffix(path))


def format_of(path: str, format: Format | str | None = None) -> Format:
    """The format of a file: the given one, or the one that its name tells.

    Raises `FlowDefinitionError` when there is none.
    """
    if format is not None:
        return named_format(format)
    found = known_format(path)
    if found is not None:
        return found
    if _suffix(path) == ".json":
        raise FlowDefinitionError(
            f"{path} is one JSON document, which cannot be streamed; write a value a line instead "
            f"(jq -c '.[]' {path} > values.ndjson), or say the format ndjson if it is written so already"
        )
    raise FlowDefinitionError(f"{path} does not tell its format by its name; say the format: ndjson or csv")


def named_format(format: Format | str) -> Format:
    """A format by its name. Raises `FlowDefinitionError` for others."""
    try:
        return Format(format)
    except ValueError:
        raise FlowDefinitionError(f"a format is one of {', '.join(Format)}, got {format!r}") from None


def check_delimiter(delimiter: str) -> None:
    """Raise `FlowDefinitionError` for what cannot part the cells of a row."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise FlowDefinitionError(f"a delimiter is one ASCII character, no quote and no end of line, got {delimiter!r}")


def _suffix(path: str) -> str:
    name = PurePath(path).name.lower().removesuffix(".gz")
    return PurePath(name).suffix
