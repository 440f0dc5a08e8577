"""Input that could not be read as an item, kept as bytes with its reason."""

from __future__ import annotations

from penstock.errors import ElementTooLarge

EXCERPT = 4096
"""Bytes kept of an input that is too large."""


class RejectedInput(bytes):
    """An input that cannot be read, as received. The step that would read it fails it, so that its bytes are kept."""

    error: Exception
    """Why it cannot be read."""
    header: str | None = None
    """The header of its file, if it is a row of CSV: see `penstock.formats.csv_header`."""

    @classmethod
    def of_bytes(cls, value: bytes, error: Exception, header: str | None = None) -> RejectedInput:
        """Create an input with the reason why it cannot be read."""
        rejected = cls(value)
        rejected.error, rejected.header = error, header
        return rejected


class OversizedInput(RejectedInput):
    """The beginning of an input that is too large. The rest was discarded."""

    length: int
    limit: int

    @classmethod
    def of(cls, value: bytes, length: int, limit: int, header: str | None = None) -> OversizedInput:
        """Create the input from the beginning of `value`, which had `length` bytes."""
        excerpt = cls(value[: min(EXCERPT, limit)])
        excerpt.length, excerpt.limit, excerpt.header = length, limit, header
        excerpt.error = ElementTooLarge(length, limit)
        return excerpt
