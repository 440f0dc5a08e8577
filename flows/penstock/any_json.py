"""Any value as JSON, for letters and answers: what cannot be said is said to be so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec

from penstock.support.text import sanitize

_encoder = msgspec.json.Encoder(enc_hook=repr)

UNSHOWN = b'"[cannot be written as JSON]"'
"""Stands where a value was that cannot be told."""


def as_json(value: Any) -> bytes:
    """A value as JSON, whatever it holds: lone surrogates become escapes, foreign objects their `repr`.

    What has no end, or breaks when it is looked at, becomes `UNSHOWN`; in an object, only the fields that are so.
    """
    if (text := _tried(value)) is not None:
        return text
    if not isinstance(value, dict):
        return UNSHOWN
    pairs = cast("dict[object, Any]", value).items()
    return b"{%b}" % b",".join(b"%b:%b" % (as_json(str(name)), _tried(inner) or UNSHOWN) for name, inner in pairs)


def _tried(value: Any) -> bytes | None:
    """A value as JSON, None if there is no way."""
    try:
        return _encoder.encode(value)
    except Exception:  # lone surrogates, keys that are no texts
        with suppress(Exception):  # what goes round in circles or too deep; a repr that raises
            return sanitize(json.dumps(value, ensure_ascii=False, default=repr, skipkeys=True)).encode()
    return None


def as_json_texts(values: Sequence[Any]) -> list[str]:
    """Each of many values as JSON, as `as_json` makes it, at a third of the price."""
    try:
        texts = _encoder.encode_lines(values).decode().split("\n")
    except Exception:  # of one of them; of which one, `as_json` finds out
        texts = []
    # JSON has no line breaks of its own, save what somebody put into a value ready made.
    if len(texts) != len(values) + 1:
        return [as_json(value).decode() for value in values]
    return texts[:-1]


def json_key(key: Any) -> str | int | float | None:
    """Convert a key to a value of a result line or dead letter: text or a number, else None."""
    if type(key) is int:
        return key
    if isinstance(key, str):
        return sanitize(key)
    return key if isinstance(key, int | float) else None
