"""Read the deadline of a request: `Penstock-Deadline: 2s`, or `grpc-timeout: 2S`."""

from __future__ import annotations

from aiohttp import web

from penstock.core.deadlines import RunDeadline
from penstock.flowfile.quantities import read_duration
from penstock.services.deadline_header import GRPC_TIMEOUT, parse_grpc_timeout
from penstock.settings import MAX_NUMBER
from penstock_http.problems import RequestRejected

DEADLINE = "Penstock-Deadline"

_PARSERS = {
    DEADLINE: (read_duration, "a duration such as 250ms, 2s or 1m30s"),
    GRPC_TIMEOUT: (parse_grpc_timeout, "an integer of at most 8 digits with a unit, such as 250m or 2S"),
}


def deadline_of(request: web.Request, now: float) -> RunDeadline | None:
    """Return the deadline of a request that started now: the earliest one if it has several. Raises 400."""
    seconds = [_read(name, text) for name in _PARSERS for text in request.headers.getall(name, ())]
    return RunDeadline(min(seconds), now + min(seconds)) if seconds else None


def _read(name: str, text: str) -> float:
    parse, expected = _PARSERS[name]
    seconds = parse(text.strip())
    if seconds is None or not 0 < seconds <= MAX_NUMBER:
        too_long = seconds is not None and seconds > MAX_NUMBER
        wanted = f"at most {MAX_NUMBER} seconds; leave it out for no deadline" if too_long else f"{expected}, above 0"
        raise RequestRejected(400, "invalid_deadline", f"{name}: expected {wanted}, got {text[:100]!r}")
    return seconds
