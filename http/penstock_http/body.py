"""A body that is read as a whole before anything is done with it."""

from __future__ import annotations

from collections.abc import AsyncIterable

from aiohttp import web

from penstock_http.decompression import BrokenBody
from penstock_http.problems import Refused


async def read_body(pieces: AsyncIterable[bytes], limit: int, too_large: str) -> bytearray:
    """All of it; raises 400 and 408, and 413 with a sentence of the caller's beyond `limit` bytes."""
    body = bytearray()
    try:
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                raise Refused(413, "body_too_large", too_large)
    except TimeoutError:
        raise Refused(408, "stalled", f"the body did not arrive in time; {len(body)} bytes of it did") from None
    except (web.RequestPayloadError, BrokenBody) as error:
        raise Refused(400, "body_decode_failed", f"{error}; nothing of it was taken") from None
    return body
