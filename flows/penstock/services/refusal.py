"""What an HTTP service says when it refuses: its message, its name for the failure, and when to come back."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import msgspec

from penstock.errors import ServiceRefused

MESSAGE_LIMIT = 500
"""Characters kept of a service's message: it is not ours, and it goes into an error."""

NAME = re.compile(r"[A-Za-z][\w.-]{0,99}")
"""A name for a kind of failure; a URL (as RFC 9457 also allows) is none."""


def refusal(service: str, status: int, reason: str, body: bytes, retry_after: str | None) -> ServiceRefused:
    """The error for an answer that is no success; `reason` is what counts when the body says nothing."""
    try:
        said: Any = msgspec.json.decode(body.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    message, kind = said_in(said)
    return ServiceRefused(service, status, message or reason, seconds_until(retry_after), kind)


def refused_item(service: str, error: Any) -> ServiceRefused:
    """The error for one item of a batch."""
    message, kind = said_in({"error": error})
    status = cast("dict[str, Any]", error).get("status") if isinstance(error, dict) else None
    known = status if type(status) is int else None
    return ServiceRefused(service, known, message or "it gave no reason", kind=kind)


def said_in(body: Any) -> tuple[str, str | None]:
    """Message and kind of `{"error": {…}}`, `{"error": "…"}`, `{"message": …}` or a problem (RFC 9457)."""
    if not isinstance(body, dict):
        return "", None
    facts = cast("dict[str, Any]", body)
    error = facts.get("error")
    if isinstance(error, str):
        return error[:MESSAGE_LIMIT], None
    if isinstance(error, dict):
        facts = cast("dict[str, Any]", error)
    found = [facts.get(key) for key in ("message", "title", "detail")]
    texts = [text for text in found if isinstance(text, str) and text]
    kind = facts.get("type")
    return ": ".join(texts)[:MESSAGE_LIMIT], kind if isinstance(kind, str) and NAME.fullmatch(kind) else None


def seconds_until(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` asks to wait, as a number or as a date; None when it asks for nothing."""
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
