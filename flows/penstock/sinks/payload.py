"""The content of a message: a value as JSON, or bytes as they are."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from penstock.errors import EncodingFailed, describe
from penstock.support.json_encoding import may_contain_null, reject_non_finite

_encode = msgspec.json.Encoder().encode


def payload_of(value: Any) -> bytes:
    """Return a value as JSON; bytes unchanged. Raises `EncodingFailed`."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(cast("bytes", value))
    try:
        data = _encode(value)
        if may_contain_null(data):
            reject_non_finite(value)
    except Exception as error:
        raise EncodingFailed(f"the value cannot be written: {describe(error)}") from error
    return data


def text_payload_of(value: Any) -> bytes | None:
    """Return text in UTF-8, None as None, and other values as `payload_of` does. Raises `EncodingFailed`."""
    if value is None:
        return None
    if not isinstance(value, str):
        return payload_of(value)
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise EncodingFailed(f"the value cannot be written: {describe(error)}") from error
