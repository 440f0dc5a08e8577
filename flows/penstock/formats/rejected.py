"""Input that could not be read as an item, kept as bytes with its reason."""

from __future__ import annotations

from penstock.errors import ElementTooLarge

EXCERPT = 4096
"""Bytes kept of an input that is too large to be taken."""


class RejectedInput(bytes):
    """An input that is no item, as it came. It fails where it was to be read, so that its bytes are kept."""

    refusal: Exception
    """Why it cannot be read."""

    @classmethod
    def of_bytes(cls, value: bytes, refusal: Exception) -> RejectedInput:
        """The bytes, and why they cannot be read."""
        unreadable = cls(value)
        unreadable.refusal = refusal
        return unreadable


class OversizedInput(RejectedInput):
    """The beginning of an input that is too large; the rest was passed over."""

    length: int
    limit: int

    @classmethod
    def of(cls, value: bytes, length: int, limit: int) -> OversizedInput:
        """The beginning of `value`, of which there were `length` bytes."""
        excerpt = cls(value[: min(EXCERPT, limit)])
        excerpt.length, excerpt.limit = length, limit
        excerpt.refusal = ElementTooLarge(length, limit)
        return excerpt
