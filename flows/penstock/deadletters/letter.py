"""A dead letter: a failed element, with all that is needed to understand it and to run it again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, cast
from uuid import UUID

import msgspec
from msgspec import Struct

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_encoder = msgspec.json.Encoder(enc_hook=repr)

UNSHOWN = b'"[cannot be written as JSON]"'
"""Stands where a value was that cannot be told."""

getrandbits = Random().getrandbits  # noqa: S311 - ids tell letters apart, they keep no secret


class Letter(Struct, frozen=True, gc=False):
    """One failed element, as it is stored. Runs make theirs by position: naming 17 fields costs four times as much."""

    id: str
    """A UUID of version 7, so that ids sort by the time at which they were made.

    It is made after `failed_at` is taken: stores look for what failed since a time from the ids of that time on.
    """
    flow: str
    run: str
    seq: int
    step: str
    type: str
    """The name of the error's class."""
    message: str
    input: bytes
    """What came in, as it came; when it was too large, its beginning."""
    input_size: int
    """How many bytes came in; more than `input` has when only the beginning was kept."""
    started_at: datetime
    """When the run started."""
    failed_at: datetime
    """When the letter was written."""
    part: int | None = None
    key: str | int | float | None = None
    attempts: int = 1
    cause: str | None = None
    found: dict[str, Any] | None = None
    """What the other services of the step had answered, by name, when one of them failed."""
    state: str = "waiting"
    revision: int | None = None
    """Which revision of its flow it ran through, in the process that its run was in."""


class Ids:
    """Makes UUIDs of version 7 that grow, also within a millisecond (RFC 9562, sections 5.7 and 6.2, method 2).

    48 bits of milliseconds, then 74 bits of chance, to which a smaller chance is added while the millisecond lasts. The
    last 48 bits are counted by themselves, because writing only their digits anew halves the time of an id.
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._middle = 0
        self._head = ""
        self._tail = 0

    def __call__(self, count: int) -> list[str]:
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            self._begin(getrandbits(25))  # the highest bit is left for what is added
        ids: list[str] = []
        for _ in range(count):
            self._tail += getrandbits(32) + 1
            if self._tail >> 48:
                self._begin(self._middle + 1)
            ids.append(f"{self._head}{self._tail:012x}")
        return ids

    def _begin(self, middle: int) -> None:
        digits = f"{self._milliseconds:012x}"
        self._middle = middle
        self._head = f"{digits[:8]}-{digits[8:]}-7{middle >> 14:03x}-{0x8000 | middle & 0x3FFF:04x}-"
        self._tail = getrandbits(47)


new_ids = Ids()
"""So many new ids, each larger than all that this process made before."""


def new_id() -> str:
    """A new id, larger than all that this process made before."""
    return new_ids(1)[0]


def id_of(text: str) -> str:
    """The id that a text names, as stores compare it; raises `ValueError` for one that is none."""
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"no id of a dead letter: {text!r}") from None


def id_at(time: datetime, *, slack: timedelta = timedelta()) -> str:
    """A text that sorts before all ids that are made at a time, less some slack, or later; and after all others."""
    milliseconds = max(0, (time - _EPOCH - slack) // _MILLISECOND)  # the time itself may be the first that there is
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def as_json(value: Any) -> bytes:
    """A value as JSON, whatever it holds: lone surrogates become escapes, foreign objects their `repr`.

    What has no end, or breaks when it is looked at, becomes `UNSHOWN`; in an object, only the fields that are so.
    """
    if (text := _tried(value)) is not None:
        return text
    if not isinstance(value, dict):
        return UNSHOWN
    pairs = cast("dict[object, Any]", value).items()
    return b"{%b}" % b",".join(b"%b:%b" % (as_json(str(name)), _tried(inner) or UNSHOWN) for name, inner in pairs)


def _tried(value: Any) -> bytes | None:
    """A value as JSON, None if there is no way."""
    try:
        return _encoder.encode(value)
    except Exception:  # lone surrogates, keys that are no texts
        # Python's own encoder escapes lone surrogates, and its decoder takes them back.
        with suppress(Exception):  # what goes round in circles or too deep; a repr that raises
            return json.dumps(value, default=repr, skipkeys=True).encode()
    return None


def as_json_texts(values: Sequence[Any]) -> list[str]:
    """Each of many values as JSON, as `as_json` makes it, at a third of the price."""
    try:
        texts = _encoder.encode_lines(values).decode().split("\n")
    except Exception:  # of one of them; of which one, `as_json` finds out
        texts = []
    # JSON has no line breaks of its own, save what somebody put into a value ready made.
    if len(texts) != len(values) + 1:
        return [as_json(value).decode() for value in values]
    return texts[:-1]


def as_document(letter: Letter) -> dict[str, Any]:
    """A letter as a document for people and programs: its input as text where it is one, else in Base64."""
    try:
        original = {"text": letter.input.decode()}
    except UnicodeDecodeError:
        original = {"base64": base64.b64encode(letter.input).decode()}
    return {
        "id": letter.id,
        "flow": letter.flow,
        "run": letter.run,
        "revision": letter.revision,
        "seq": letter.seq,
        **({} if letter.part is None else {"part": letter.part}),
        "key": letter.key,
        "state": letter.state,
        "error": {
            "step": letter.step,
            "type": letter.type,
            "message": letter.message,
            "attempts": letter.attempts,
            "cause": letter.cause,
        },
        "input": original | {"size": letter.input_size, "complete": letter.input_size == len(letter.input)},
        "found": letter.found,
        "startedAt": letter.started_at.isoformat(),
        "failedAt": letter.failed_at.isoformat(),
    }
