"""A body that is read as a whole before anything is done with it."""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterable

import msgspec
from aiohttp import HttpVersion11, web

from penstock.support.decompression import BodyDecodeFailed, decompressed
from penstock_http.media import NDJSON
from penstock_http.problems import RequestRejected
from penstock_http.requests.stall_detector import StallDetector


async def read_body(pieces: AsyncIterable[bytes], limit: int, too_large: str) -> bytearray:
    """All of it; raises 400 and 408, and 413 with a sentence of the caller's beyond `limit` bytes."""
    body = bytearray()
    try:
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                raise RequestRejected(413, "body_too_large", too_large)
    except TimeoutError:
        raise RequestRejected(408, "stalled", f"the body did not arrive in time; {len(body)} bytes of it did") from None
    except (web.RequestPayloadError, BodyDecodeFailed) as error:
        raise RequestRejected(400, "body_decode_failed", f"{error}; nothing of it was taken") from None
    return body


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])

_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
"""What tells where an item ends: brackets and commas outside of strings. A quote alone begins a string without end."""

MAX_MARKS = 2048
"""Marks that are looked at in one turn of the event loop, less than a millisecond."""


async def read_array(request: web.Request, encoding: str, limit: int, pace: StallDetector) -> list[bytes]:
    """The items of a JSON array; raises 400, 408 and 413."""
    too_large = f"a JSON array may have {limit} bytes; send more as {NDJSON}, an item a line"
    body = await read_body(decompressed(pace.read(request), encoding), limit, too_large)
    try:
        return await items_of(body)
    except msgspec.ValidationError:
        raise RequestRejected(
            400, "not_an_array", f"the body: expected a JSON array of items; to send one item per line, use {NDJSON}"
        ) from None
    except msgspec.DecodeError as error:
        raise RequestRejected(400, "malformed_body", f"the body is not valid JSON: {error}") from None


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
        if not number % MAX_MARKS:
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


async def ignore_expectation(request: web.Request) -> None:
    """Do nothing, in place of aiohttp's own handling of `Expect`."""


async def send_continue(request: web.Request) -> None:
    """Send 100 Continue if the client waits for it. HTTP/1.0 has no `Expect`."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # what comes now is the response, of which nothing was sent
