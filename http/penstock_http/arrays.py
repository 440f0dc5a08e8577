"""A body that is a JSON array, and its items, each as the bytes that it came in."""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8

import msgspec
from aiohttp import web

from penstock_http.body import read_body
from penstock_http.decompression import decompressed
from penstock_http.negotiation import NDJSON
from penstock_http.pace import Pace
from penstock_http.problems import Refused

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])

_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
"""What tells where an item ends: brackets and commas outside of strings. A quote alone begins a string without end."""

MARKS = 2048
"""Marks that are looked at in one turn of the event loop, less than a millisecond."""


async def read_array(request: web.Request, encoding: str, limit: int, pace: Pace) -> list[bytes]:
    """The items of a JSON array; raises 400, 408 and 413."""
    too_large = f"a JSON array may have {limit} bytes; send more as {NDJSON}, an item a line"
    body = await read_body(decompressed(pace.arrivals(request), encoding), limit, too_large)
    try:
        return await items_of(body)
    except msgspec.ValidationError:
        raise Refused(
            400, "not_an_array", f"the body: expected a JSON array of items; to send one item per line, use {NDJSON}"
        ) from None
    except msgspec.DecodeError as error:
        raise Refused(400, "malformed_body", f"the body is not valid JSON: {error}") from None


async def items_of(body: bytearray) -> list[bytes]:
    """The items of an array. One that is no JSON in itself is an item too: it fails alone, and holds up no other.

    A byte order mark at the start is removed from the body. Raises `DecodeError` when it cannot be told where the items
    end, `ValidationError` when the body is no array.
    """
    if body.startswith(BOM_UTF8):
        del body[: len(BOM_UTF8)]
    try:
        return [bytes(item) for item in _ITEMS.decode(body)]
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        if (items := await _split(bytes(body))) is None:
            raise msgspec.DecodeError(str(error)) from None
        return items


async def _split(body: bytes) -> list[bytes] | None:
    """The items of an array by its brackets, commas and strings alone; None if these leave it open where items end."""
    text = body.strip(b" \t\r\n")
    if not text.startswith(b"["):
        return None
    items: list[bytes] = []
    depth = start = 0
    for number, mark in enumerate(_MARK.finditer(text)):
        if not number % MARKS:
            await asyncio.sleep(0)
        kind = mark[0]
        if kind in b"[{":
            depth += 1
            if depth == 1:
                start = mark.end()
        elif kind in b"]}":
            depth -= 1
            if depth == 0:
                items.append(text[start : mark.start()].strip())
                closed = kind == b"]" and mark.end() == len(text)
                return items if closed and all(items) else None
        elif kind == b'"':
            return None
        elif kind == b"," and depth == 1:
            items.append(text[start : mark.start()].strip())
            start = mark.end()
    return None
