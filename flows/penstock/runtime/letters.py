"""From failed elements to their dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from penstock.deadletters import Letter, new_id, now
from penstock.element import Element, Failure
from penstock.sinks import shown_key

UNKNOWN = Failure("?", "?", "?")


def write_letters(
    flow: str, run: str, started_at: datetime, elements: list[Element[Any]], revision: int | None = None
) -> list[Letter]:
    """The letters of elements that failed together."""
    failed_at = now()
    letters: list[Letter] = []
    for element in elements:
        failure = element.failure or UNKNOWN
        original = element.input if element.parent is None else element.root.input
        raw = original if isinstance(original, bytes) else _as_json(original)
        letters.append(
            Letter(
                id=new_id(),
                flow=flow,
                run=run,
                seq=element.seq,
                part=element.part,
                key=shown_key(element.key),
                step=failure.step,
                type=failure.type,
                message=failure.message,
                attempts=failure.attempts,
                cause=failure.cause,
                input=raw if type(raw) is bytes else bytes(raw),
                input_size=len(raw) if type(raw) is bytes else getattr(original, "length", len(raw)),
                found=element.found,
                started_at=started_at,
                failed_at=failed_at,
                revision=revision,
            )
        )
    return letters


def _as_json(value: Any) -> bytes:
    """A value as JSON; what JSON does not know as its repr, because a letter has to be written in any case."""
    try:
        return msgspec.json.encode(value, enc_hook=repr)
    except Exception:
        return repr(value).encode("utf-8", "replace")
