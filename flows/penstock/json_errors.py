"""Describe why bytes are not the JSON that was expected, in the same words with every supported version of msgspec."""

from __future__ import annotations

import msgspec

from penstock.errors import describe


def describe_json_error(error: Exception, data: bytes | bytearray) -> str:
    """Describe in one line why msgspec refused `data`; invalid UTF-8 with its position, counted in bytes from 0.

    msgspec up to 0.22 raises `UnicodeDecodeError`, with a position inside the string that it was reading; since 0.23 it
    raises `DecodeError` without a position. So the position is found here, in the data.
    """
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    try:
        data.decode()
    except UnicodeDecodeError as invalid:
        return f"not UTF-8 at byte {invalid.start}"
    return describe(error)
