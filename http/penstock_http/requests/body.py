"""Read request bodies that are needed as a whole, split JSON arrays into items, and handle `Expect: 100-continue`."""

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

DELIMITERS_PER_ITERATION = 2048
"""Delimiters that are handled in one iteration of the event loop, which takes less than a millisecond."""

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])

_DELIMITER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
"""A string, or a bracket or comma outside of strings. A single quote character starts a string that does not end."""


async def read_body(chunks: AsyncIterable[bytes], limit: int, too_large: str) -> bytearray:
    """Read a body. Raises 400, 408, and 413 with the message `too_large` if it has more than `limit` bytes."""
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise RequestRejected(413, "body_too_large", too_large)
    except TimeoutError:
        raise RequestRejected(
            408, "stalled", f"the body did not arrive in time; {len(body)} bytes were received"
        ) from None
    except (web.RequestPayloadError, BodyDecodeFailed) as error:
        raise RequestRejected(400, "body_decode_failed", f"{error}; nothing was processed") from None
    return body


async def read_array(request: web.Request, encoding: str, limit: int, stall_detector: StallDetector) -> list[bytes]:
    """Read a JSON array and return its items. Raises 400, 408 and 413."""
    too_large = f"a JSON array can have at most {limit} bytes; to send more, use {NDJSON} with one item per line"
    body = await read_body(decompressed(stall_detector.read(request), encoding), limit, too_large)
    try:
        return await split_array(body)
    except msgspec.ValidationError:
        raise RequestRejected(
            400, "not_an_array", f"the body: expected a JSON array of items; to send one item per line, use {NDJSON}"
        ) from None
    except msgspec.DecodeError as error:
        raise RequestRejected(400, "malformed_body", f"the body is not valid JSON: {error}") from None


async def split_array(body: bytearray) -> list[bytes]:
    """Split a JSON array into items. An item that is not valid JSON is returned too, so that it fails alone.

    A byte order mark at the start is removed from the body. Raises `ValidationError` if the body is not an array,
    `DecodeError` if it is unclear where the items end.
    """
    if body.startswith(BOM_UTF8):
        del body[: len(BOM_UTF8)]
    try:
        return [bytes(item) for item in _ITEMS.decode(body)]
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        if (items := await _split_at_delimiters(bytes(body))) is None:
            raise msgspec.DecodeError(str(error)) from None
        return items


async def _split_at_delimiters(body: bytes) -> list[bytes] | None:
    """Split an array only by its brackets, commas and strings. Returns None if it is unclear where the items end."""
    text = body.strip(b" \t\r\n")
    if not text.startswith(b"["):
        return None
    items: list[bytes] = []
    depth = start = 0
    for number, delimiter in enumerate(_DELIMITER.finditer(text)):
        if not number % DELIMITERS_PER_ITERATION:
            await asyncio.sleep(0)
        kind = delimiter[0]
        if kind in b"[{":
            depth += 1
            if depth == 1:
                start = delimiter.end()
        elif kind in b"]}":
            depth -= 1
            if depth == 0:
                items.append(text[start : delimiter.start()].strip())
                is_closed = kind == b"]" and delimiter.end() == len(text)
                return items if is_closed and all(items) else None
        elif kind == b'"':
            return None
        elif kind == b"," and depth == 1:
            items.append(text[start : delimiter.start()].strip())
            start = delimiter.end()
    return None


async def send_continue(request: web.Request) -> None:
    """Send 100 Continue if the client waits for it. HTTP/1.0 has no `Expect`."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the response itself was sent yet


async def ignore_expectation(request: web.Request) -> None:
    """Do nothing, in place of aiohttp's handler, which sends 100 Continue before the request is checked."""
