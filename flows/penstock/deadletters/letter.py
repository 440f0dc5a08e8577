"""A dead letter: a failed element, with all that is needed to understand it and to run it again."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from msgspec import Struct


class Letter(Struct, frozen=True, gc=False):
    """One failed element, as it is stored. Runs make theirs by position: naming 17 fields costs four times as much."""

    id: str
    """A UUID of version 7, so that ids sort by the time at which they were made.

    It is never older than `failed_at`: stores look for what failed since a time from the ids of that time on.
    """
    flow: str
    run: str
    seq: int
    step: str
    type: str
    """The name of the error's class."""
    message: str
    input: bytes
    """What came in, as it came; when it was too large, its beginning; without fields that are secret."""
    input_size: int
    """How many bytes came in; `input` has others when only its beginning was kept, or secret fields were left out."""
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
        "partialResults": letter.found,
        "startedAt": letter.started_at.isoformat(),
        "failedAt": letter.failed_at.isoformat(),
    }
