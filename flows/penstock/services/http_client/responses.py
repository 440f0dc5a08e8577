"""The content of a response, or the exception for an error response."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import msgspec

from penstock.errors import SERVICE_MESSAGE_LIMIT, InvalidCallResult, ServiceErrorResponse, ServiceUnreachable
from penstock.services.http_client.exchange import Response
from penstock.support.decompression import BodyDecodeFailed, decompressed

ENCODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd"}
"""Content encodings that are decoded. A request asks for them by its header Accept-Encoding."""

ERROR_TYPE = re.compile(r"[A-Za-z][\w.-]{0,99}")
"""A name for a type of error. RFC 9457 also allows a URL, which is ignored."""


async def content_of(service: str, response: Response, limit: int) -> bytes:
    """Return the body of a 2xx response, decompressed.

    Raises `ServiceErrorResponse` for any other status, redirects included: following one would send values to a host
    that the flow does not name. Raises `InvalidCallResult` for a body of more than `limit` bytes or in an unknown
    encoding, and `ServiceUnreachable` for one that cannot be decompressed.
    """
    content: bytes | None = None if response.too_long else response.body
    if content and (encoding := response.header(b"content-encoding")) is not None:
        content = await _decompress(service, content, encoding.strip().lower(), limit)
    return _content_or_error(service, response, content, limit)


def uncompressed_content_of(service: str, response: Response, limit: int) -> bytes:
    """Return the body of a 2xx response that `is_compressed` says is not. Raises as `content_of` does."""
    return _content_or_error(service, response, None if response.too_long else response.body, limit)


def is_compressed(response: Response) -> bool:
    """Return whether the body of a response has a content encoding."""
    return bool(response.body) and response.header(b"content-encoding") is not None


def _content_or_error(service: str, response: Response, content: bytes | None, limit: int) -> bytes:
    if not 200 <= response.status < 300:
        raise _response_error(service, response, content or b"")
    if content is None:
        raise InvalidCallResult(f"the response of {service} is longer than its limit of {limit} bytes")
    return content


async def _decompress(service: str, body: bytes, encoding: str, limit: int) -> bytes | None:
    """Decompress a body; None if it is longer than `limit`."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ENCODINGS:
        raise InvalidCallResult(
            f"the response of {service} has the content encoding {encoding[:40]!r}; allowed: {', '.join(ENCODINGS)}"
        )
    content = bytearray()
    try:
        async for chunk in decompressed(_once(body), ENCODINGS[encoding]):
            content += chunk
            if len(content) > limit:
                return None
    except BodyDecodeFailed as error:
        raise ServiceUnreachable(service, f"its response is invalid: {error}") from error
    return bytes(content)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _response_error(service: str, response: Response, body: bytes) -> ServiceErrorResponse:
    """Make the exception for an error response. Its reason phrase is the message if the body has none."""
    try:
        document: Any = msgspec.json.decode(body.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    message, kind = _parse_error_body(document)
    retry_after = parse_retry_after(response.header(b"retry-after"))
    return ServiceErrorResponse(service, response.status, message or response.reason, retry_after, kind)


def batch_item_error(service: str, error: Any) -> ServiceErrorResponse:
    """Make the exception for one item of a batch."""
    message, kind = _parse_error_body({"error": error})
    status = cast("dict[str, Any]", error).get("status") if isinstance(error, dict) else None
    known = status if type(status) is int else None
    return ServiceErrorResponse(service, known, message or "it gave no reason", kind=kind)


def _parse_error_body(body: Any) -> tuple[str, str | None]:
    """Return message and type of `{"error": {…}}`, `{"error": "…"}`, `{"message": …}` or a problem (RFC 9457)."""
    if not isinstance(body, dict):
        return "", None
    fields = cast("dict[str, Any]", body)
    error = fields.get("error")
    if isinstance(error, str):
        return error[:SERVICE_MESSAGE_LIMIT], None
    if isinstance(error, dict):
        fields = cast("dict[str, Any]", error)
    values = [fields.get(key) for key in ("message", "title", "detail")]
    texts = [text for text in values if isinstance(text, str) and text]
    kind = fields.get("type")
    known = kind if isinstance(kind, str) and ERROR_TYPE.fullmatch(kind) else None
    return ": ".join(texts)[:SERVICE_MESSAGE_LIMIT], known


def parse_retry_after(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds to wait of a `Retry-After`, which is a number or a date; None if there is no valid one."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds(), 0.0)
