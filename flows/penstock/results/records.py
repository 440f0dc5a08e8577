"""The records that tell of a run: a line for each result, and one for its end.

{"ok":true,"seq":0,"value":…}
{"ok":false,"seq":2,"key":3,"error":{"step":…,"type":…,"message":…,"attempts":2},"deadLetter":"…"}
{"end":{"reason":"completed","received":10,"ok":7,"failed":3,"filtered":0,"cancelled":0,"seconds":0.31}}
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from penstock.core.element import UNKNOWN, Element
from penstock.support.json_encoding import json_key, may_contain_null, reject_non_finite
from penstock.support.text import sanitize

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


class SuccessRecord(Struct, gc=False):
    """A value that made it to the end."""

    ok: bool
    seq: int
    value: Any
    part: int | UnsetType = UNSET


class ErrorInfo(Struct, gc=False):
    """What a client is told of a failure."""

    step: str
    type: str
    message: str
    attempts: int


class FailureRecord(Struct, gc=False):
    """A value that failed."""

    ok: bool
    seq: int
    part: int | UnsetType
    key: Any
    error: ErrorInfo
    deadLetter: str | UnsetType  # noqa: N815 - the name in the contract


class EndRecord(Struct, rename="camel"):
    """What became of all of them."""

    reason: str
    received: int
    ok: int
    failed: int
    filtered: int
    cancelled: int
    seconds: float
    error: str | UnsetType = UNSET


class _EndRecord(Struct):
    end: EndRecord


def success_line(element: Element[Any]) -> bytes:
    """The line of an element that made it. Raises `ValueError` for NaN and infinities."""
    line = _encode(
        SuccessRecord(True, element.seq, element.value)
        if element.part is None
        else SuccessRecord(True, element.seq, element.value, element.part)
    )
    if may_contain_null(line):
        reject_non_finite(element.value)
    return line + b"\n"


def success_lines(elements: list[Element[Any]]) -> bytes:
    """The lines of elements that made it: half the cost of one line after the other. Raises as for one of them."""
    lines = _encode_lines(
        [
            SuccessRecord(True, element.seq, element.value)
            if element.part is None
            else SuccessRecord(True, element.seq, element.value, element.part)
            for element in elements
        ]
    )
    if may_contain_null(lines):
        _check_all(elements, lines.split(b"\n"))
    return lines


def _check_all(elements: list[Element[Any]], lines: list[bytes]) -> None:
    """Look into the values in whose lines something became `null`."""
    aligned = len(lines) == len(elements) + 1  # JSON has no line breaks, save what somebody put in ready made
    for element, line in zip(elements, lines, strict=False):
        if may_contain_null(line) or not aligned:
            reject_non_finite(element.value)


def failure_line(element: Element[Any]) -> bytes:
    """The line of an element that failed."""
    failure = element.failure or UNKNOWN
    record = FailureRecord(
        False,
        element.seq,
        UNSET if element.part is None else element.part,
        UNSET if element.key is None else json_key(element.key),
        ErrorInfo(sanitize(failure.step), failure.type, sanitize(failure.message), failure.attempts),
        element.dead_letter_id or UNSET,
    )
    return _encode(record) + b"\n"


def end_line(end: EndRecord) -> bytes:
    """The last line."""
    return _encode(_EndRecord(end)) + b"\n"


class RecordFormat(Protocol):
    """How records become bytes."""

    media_type: str
    opening: bytes
    """Sent before the first record."""

    def success(self, element: Element[Any]) -> bytes: ...

    def encode_successes(self, elements: list[Element[Any]]) -> bytes: ...

    def failure(self, element: Element[Any]) -> bytes: ...

    def end(self, end: EndRecord) -> bytes: ...


class NdjsonFormat:
    """A record a line."""

    media_type = "application/x-ndjson"
    opening = b""
    success = staticmethod(success_line)
    encode_successes = staticmethod(success_lines)
    failure = staticmethod(failure_line)
    end = staticmethod(end_line)


class ServerSentEvents:
    """A record an event: `result` with the seq as its id (and the part, if it is one), then `end`.

    An EventSource connects again when a stream ends. It sends `Last-Event-ID` only if it has received an id, so the
    stream opens with a block that sets one: also a client that has received no result yet can be told from a new one.
    (A block without `data` sets the id and dispatches no event; WHATWG HTML, section 9.2.6.)
    """

    media_type = "text/event-stream"
    opening = b"retry: 10000\nid: start\n\n"
    """`retry` is the time in milliseconds before a client connects again. That request only gets 204, so the time may
    be long: pages that do not call `close()` make fewer requests, also while the service restarts."""

    def success(self, element: Element[Any]) -> bytes:
        return self._event(element, success_line(element))

    def encode_successes(self, elements: list[Element[Any]]) -> bytes:
        return b"".join(map(self.success, elements))

    def failure(self, element: Element[Any]) -> bytes:
        return self._event(element, failure_line(element))

    def end(self, end: EndRecord) -> bytes:
        return b"event: end\ndata: %b\n" % end_line(end)

    def _event(self, element: Element[Any], line: bytes) -> bytes:
        if element.part is None:
            return b"event: result\nid: %d\ndata: %b\n" % (element.seq, line)
        return b"event: result\nid: %d.%d\ndata: %b\n" % (element.seq, element.part, line)
