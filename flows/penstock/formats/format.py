"""File formats: NDJSON or CSV, compressed or not, as the file name says."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePath

from penstock.errors import FlowDefinitionError


class Format(StrEnum):
    """The format of the values in a file."""

    NDJSON = "ndjson"
    """One JSON value per line."""
    CSV = "csv"
    """One row per value; the first row names the fields (RFC 4180)."""


SUFFIXES = {".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".csv": Format.CSV}


def is_compressed(path: str) -> bool:
    """Return whether a file is compressed with gzip, according to its name."""
    return path.lower().endswith(".gz")


def known_format(path: str) -> Format | None:
    """Return the format that the name of a file indicates; None if it indicates none."""
    return SUFFIXES.get(_suffix(path))


def format_of(path: str, format: Format | str | None = None) -> Format:
    """Return the format of a file: the given one, or the one that its name indicates.

    Raises `FlowDefinitionError` if the name indicates none.
    """
    if format is not None:
        return named_format(format)
    known = known_format(path)
    if known is not None:
        return known
    if _suffix(path) == ".json":
        raise FlowDefinitionError(
            f"{path}: a JSON document cannot be streamed; write one value per line instead "
            f"(jq -c '.[]' {path} > values.ndjson), or set the format to ndjson if it has one value per line"
        )
    raise FlowDefinitionError(f"{path}: its name indicates no format; set the format to ndjson or csv")


def named_format(format: Format | str) -> Format:
    """Return a format by its name. Raises `FlowDefinitionError` for an unknown one."""
    try:
        return Format(format)
    except ValueError:
        raise FlowDefinitionError(f"format: expected one of {', '.join(Format)}, got {format!r}") from None


def check_delimiter(delimiter: str) -> None:
    """Raise `FlowDefinitionError` for a delimiter that cannot separate cells."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise FlowDefinitionError(
            f"delimiter: expected one ASCII character other than a quote or a line break, got {delimiter!r}"
        )


def _suffix(path: str) -> str:
    name = PurePath(path).name.lower().removesuffix(".gz")
    return PurePath(name).suffix
