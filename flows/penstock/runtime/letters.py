"""From failed elements to their dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from penstock.any_json import as_json
from penstock.deadletters import Letter
from penstock.element import UNKNOWN, Element
from penstock.ids import new_ids, now
from penstock.sinks import shown_key


def write_letters(
    flow: str, run: str, started_at: datetime, elements: list[Element[Any]], revision: int | None = None
) -> list[Letter]:
    """The letters of elements that failed together."""
    failed_at = now()
    letters: list[Letter] = []
    for id, element in zip(new_ids(len(elements), failed_at), elements, strict=True):
        failure = element.failure or UNKNOWN
        original = element.input if element.parent is None else element.root.input
        raw = original if isinstance(original, bytes) else as_json(original)
        size = len(raw)
        if type(raw) is not bytes:
            raw, size = bytes(raw), getattr(original, "length", size)
        letters.append(
            Letter(
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
                shown_key(element.key),
                failure.attempts,
                failure.cause,
                element.found,
                "waiting",
                revision,
            )
        )
    return letters
