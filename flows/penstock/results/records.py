"""Records that are sent to clients: one for each result of a run, and one for its end.

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
    """The record of an element that succeeded."""

    ok: bool
    seq: int
    value: Any
    part: int | UnsetType = UNSET


class ErrorInfo(Struct, gc=False):
    """A failure, as it is sent to clients."""

    step: str
    type: str
    message: str
    attempts: int


class FailureRecord(Struct, gc=False):
    """The record of an element that failed."""

    ok: bool
    seq: int
    part: int | UnsetType
    key: Any
    error: ErrorInfo
    deadLetter: str | UnsetType  # noqa: N815 - the name in the HTTP API


class EndRecord(Struct, rename="camel"):
    """The end of a run: its reason, counts and duration."""

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
    """Return the line of an element that succeeded. Raises `ValueError` for NaN and infinities."""
    line = _encode(
        SuccessRecord(True, element.seq, element.value)
        if element.part is None
        else SuccessRecord(True, element.seq, element.value, element.part)
    )
    if may_contain_null(line):
        reject_non_finite(element.value)
    return line + b"\n"


def success_lines(elements: list[Element[Any]]) -> bytes:
    """Return the lines of elements that succeeded, in half the time of single calls. Raises like `success_line`."""
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
    """Check the values whose lines contain `null`, which is also how NaN and infinities are encoded."""
    aligned = (
        len(lines) == len(elements) + 1
    )  # JSON has no line breaks, except in parts that were encoded before (msgspec.Raw)
    for element, line in zip(elements, lines, strict=False):
        if may_contain_null(line) or not aligned:
            reject_non_finite(element.value)


def failure_line(element: Element[Any]) -> bytes:
    """Return the line of an element that failed."""
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
    """Return the last line."""
    return _encode(_EndRecord(end)) + b"\n"


class RecordFormat(Protocol):
    """Encodes records as bytes."""

    media_type: str
    opening: bytes
    """Sent before the first record."""

    def success(self, element: Element[Any]) -> bytes: ...

    def encode_successes(self, elements: list[Element[Any]]) -> bytes: ...

    def failure(self, element: Element[Any]) -> bytes: ...

    def end(self, end: EndRecord) -> bytes: ...

    def comment(self, text: str) -> bytes:
        """Return what readers ignore and people can read. Empty if the format has no comments."""
        ...


class NdjsonFormat:
    """Writes each record as a line of JSON."""

    media_type = "application/x-ndjson"
    opening = b""
    success = staticmethod(success_line)
    encode_successes = staticmethod(success_lines)
    failure = staticmethod(failure_line)
    end = staticmethod(end_line)

    def comment(self, text: str) -> bytes:  # noqa: ARG002 - the format has no comments
        return b""


class ServerSentEvents:
    """Writes each record as an event: `result`, whose id is the seq (and the part, if any), and `end` at the end.

    An EventSource reconnects when a stream ends. It sends `Last-Event-ID` only if it has received an id, so the stream
    opens with a block that sets one. It distinguishes a client that reconnects before its first result from a new one.
    (A block without `data` sets the id and dispatches no event; WHATWG HTML, section 9.2.6.)
    """

    media_type = "text/event-stream"
    opening = b"retry: 10000\nid: start\n\n"
    """`retry` is the time in milliseconds before a client reconnects. That request only gets 204, so a long time is
    fine: pages that do not call `close()` send fewer requests, also while the service restarts."""

    def success(self, element: Element[Any]) -> bytes:
        return self._event(element, success_line(element))

    def encode_successes(self, elements: list[Element[Any]]) -> bytes:
        return b"".join(map(self.success, elements))

    def failure(self, element: Element[Any]) -> bytes:
        return self._event(element, failure_line(element))

    def end(self, end: EndRecord) -> bytes:
        return b"event: end\ndata: %b\n" % end_line(end)

    def comment(self, text: str) -> bytes:
        return b": %b\n\n" % sanitize(text).replace("\r", " ").replace("\n", " ").encode()

    def _event(self, element: Element[Any], line: bytes) -> bytes:
        if element.part is None:
            return b"event: result\nid: %d\ndata: %b\n" % (element.seq, line)
        return b"event: result\nid: %d.%d\ndata: %b\n" % (element.seq, element.part, line)
