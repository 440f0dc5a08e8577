"""A dead letter: a failed element, with everything needed to understand it and to run it again."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from penstock.support.ids import new_ids, now
from penstock.support.json_encoding import encode_json, json_key

if TYPE_CHECKING:
    from penstock.core.element import Element


class DeadLetter(Struct, frozen=True, gc=False):
    """One failed element, as it is stored."""

    id: str
    """A UUID of version 7, so ids sort by creation time.

    It is never older than `failed_at`: stores use that to find the letters that failed since a time by their ids.
    """
    flow: str
    run: str
    seq: int
    step: str
    type: str
    """The class name of the error."""
    message: str
    input: bytes
    """The input as it was received, without secret fields; only its beginning if it was too large."""
    input_size: int
    """The number of bytes received. `input` has a different size if it was cut or redacted."""
    started_at: datetime
    """When the run started."""
    failed_at: datetime
    """When the letter was created."""
    part: int | None = None
    key: str | int | float | None = None
    attempts: int = 1
    cause: str | None = None
    partial_results: dict[str, Any] | None = None
    """The results of the steps `enrich` before the failure, and of other services of the step that failed, by name.

    A redrive does not call these services again, unless it starts from the beginning. See `core.partial_results`.
    """
    state: str = "waiting"
    revision: int | None = None
    """The revision of the flow that processed the element, as numbered by the process of the run."""
    group: str | None = None
    """The fingerprint of its group (`Group.id`). Set by the store; None in a letter that is not stored yet."""
    redrives: int = 0
    """How often it was redriven. A redrive that was cancelled does not count."""
    header: str | None = None
    """The header of the CSV file, with its delimiter, if the input is a row that could not be read.

    `penstock.formats.csv_reader.parse_row` reads the row with it.
    """
    origin: str | None = None
    """The name of the message of a broker that the element was made of; it is the same for each delivery.

    Stores skip a letter if the flow has one of the same origin that is not resolved: its message came again.
    """

    @property
    def complete(self) -> bool:
        """Whether the input is stored as it was received. Only then can it be redriven."""
        return self.input_size == len(self.input)


def make_dead_letters(
    flow: str,
    run: str,
    started_at: datetime,
    elements: list[Element[Any]],
    revision: int | None = None,
    origin_of: Callable[[Element[Any]], str | None] | None = None,
) -> list[DeadLetter]:
    """Create the dead letters of elements that failed together. `origin_of` returns the message of an element."""
    from penstock.core.element import UNKNOWN
    from penstock.core.partial_results import results_of_letter

    failed_at = now()
    letters: list[DeadLetter] = []
    for id, element in zip(new_ids(len(elements), failed_at), elements, strict=True):
        failure = element.failure or UNKNOWN
        original = element.input if element.parent is None else element.root.input
        raw = original if isinstance(original, bytes) else encode_json(original)
        size, header = len(raw), None
        if type(raw) is not bytes:
            header = getattr(original, "header", None)
            raw, size = bytes(raw), getattr(original, "length", size)
        letters.append(
            DeadLetter(  # by position: 21 keyword arguments take four times as long
                id,
                flow,
                run,
                element.seq,
                failure.step,
                failure.type,
                failure.message,
                raw,
                size,
                started_at,
                failed_at,
                element.part,
                json_key(element.key),
                failure.attempts,
                failure.cause,
                results_of_letter(element),
                "waiting",
                revision,
                None,
                0,
                header,
                None if origin_of is None else origin_of(element),
            )
        )
    return letters


def as_document(letter: DeadLetter) -> dict[str, Any]:
    """Convert a letter to a JSON document. The input is text if it is UTF-8, else Base64."""
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
        "group": letter.group,
        "redrives": letter.redrives,
        "error": {
            "step": letter.step,
            "type": letter.type,
            "message": letter.message,
            "attempts": letter.attempts,
            "cause": letter.cause,
        },
        "input": original | {"size": letter.input_size, "complete": letter.complete},
        **({} if letter.header is None else {"header": letter.header}),
        **({} if letter.origin is None else {"origin": letter.origin}),
        "partialResults": letter.partial_results,
        "startedAt": letter.started_at.isoformat(),
        "failedAt": letter.failed_at.isoformat(),
    }
