"""Any value as JSON, for letters and answers: what cannot be said is said to be so."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, cast

import msgspec

from penstock.errors import describe
from penstock.support.text import sanitize

_encoder = msgspec.json.Encoder(enc_hook=repr)

UNENCODABLE = b'"[cannot be written as JSON]"'
"""Stands where a value was that cannot be told."""


def encode_json(value: Any) -> bytes:
    """A value as JSON, whatever it holds: lone surrogates become escapes, foreign objects their `repr`.

    What has no end, or breaks when it is looked at, becomes `UNENCODABLE`; in an object, only the fields that are so.
    """
    if (text := _tried(value)) is not None:
        return text
    if not isinstance(value, dict):
        return UNENCODABLE
    pairs = cast("dict[object, Any]", value).items()
    return b"{%b}" % b",".join(
        b"%b:%b" % (encode_json(str(name)), _tried(inner) or UNENCODABLE) for name, inner in pairs
    )


def _tried(value: Any) -> bytes | None:
    """A value as JSON, None if there is no way."""
    try:
        return _encoder.encode(value)
    except Exception:  # lone surrogates, keys that are no texts
        with suppress(Exception):  # what goes round in circles or too deep; a repr that raises
            return sanitize(json.dumps(value, ensure_ascii=False, default=repr, skipkeys=True)).encode()
    return None


def encode_json_each(values: Sequence[Any]) -> list[str]:
    """Each of many values as JSON, as `encode_json` makes it, at a third of the price."""
    try:
        texts = _encoder.encode_lines(values).decode().split("\n")
    except Exception:  # of one of them; of which one, `encode_json` finds out
        texts = []
    # JSON has no line breaks of its own, save what somebody put into a value ready made.
    if len(texts) != len(values) + 1:
        return [encode_json(value).decode() for value in values]
    return texts[:-1]


def json_key(key: Any) -> str | int | float | None:
    """Convert a key to a value of a result line or dead letter: text or a number, else None."""
    if type(key) is int:
        return key
    if isinstance(key, str):
        return sanitize(key)
    return key if isinstance(key, int | float) else None


may_contain_null = re.compile(b"null").search
"""Whether they may be in some JSON: only a value whose own holds a `null` needs a look, which costs 0.5 µs.

An expression looks through lines in half the time of `in`: 25 ns for that of an order.
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def reject_non_finite(value: Any) -> None:
    """Raise `ValueError` if there is a number in a value, however deep, that JSON cannot hold.

    Else a sum that went wrong would be told as a success that has no such field.
    """
    if _decode(_encode(value)) == value:
        return  # so most are, and this takes a third of the time of looking at each part of it

    waiting: list[Any] = [msgspec.to_builtins(value, enc_hook=_ready_made)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float):
            if not isfinite(one):
                raise ValueError(f"{one!r} is no number that JSON can hold")
        elif isinstance(one, dict):
            waiting += cast("dict[str, Any]", one).values()
        elif isinstance(one, list | tuple):
            waiting += cast("list[Any]", one)


def _ready_made(_: object) -> None:
    """JSON that somebody put in as it is (`msgspec.Raw`): all else is either known, or could not be written."""


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
