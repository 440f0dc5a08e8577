"""Dead letters do not keep what is secret: not in the input, not in what was found, not in the key or the error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from laws.plans import quiet
from penstock import Flow, from_iterable
from penstock.deadletters import Filter, Letter, MemoryStore

SECRET = "4111-1111"


def refuse(value: Any) -> Any:
    raise ValueError(f"card {value['card']['number']} of {value['card']['codes']} is refused")


def letter_of(value: Any, *paths: str, key: str | None = None) -> Letter:
    """The letter of one value that fails."""

    async def main() -> Letter:
        store = MemoryStore()
        flow = Flow[Any]("f", key=key).enrich(asked=lambda value: {"card": value["card"]}).map(refuse)
        async for _ in flow.dead_letters(store, redact=paths).stream(from_iterable([value])):
            pass
        return (await store.page(Filter())).letters[0]

    return quiet(main())


CARD = {"id": SECRET, "card": {"number": SECRET, "codes": ["123", 456]}, "note": "fragile"}


@pytest.mark.parametrize("value", [CARD, json.dumps(CARD).encode()], ids=["object", "bytes"])
def test_redacted_fields_are_nowhere_in_a_letter(value: Any) -> None:
    """Paths go through objects and lists; the key and the error's text are told without what stood there."""
    letter = letter_of(value, "id", "card.number", "card.codes", key="id")
    kept = json.loads(letter.input)

    assert kept == {"id": "[redacted]", "card": {"number": "[redacted]", "codes": "[redacted]"}, "note": "fragile"}
    assert letter.key == "[redacted]"
    assert letter.message == "card [redacted] of ['[redacted]', [redacted]] is refused"
    assert SECRET not in repr(letter)
    assert letter.step == "refuse"


def test_what_is_no_json_is_not_kept_at_all() -> None:
    """In such an input nobody can tell the secret fields from the others."""
    assert letter_of(b'{"card": "4111', "card").input == b"[redacted: this input is no JSON]"


def test_without_paths_a_letter_is_what_came_in() -> None:
    """Nothing is changed for flows that keep no secrets."""
    letter = letter_of(CARD, key="id")

    assert (json.loads(letter.input), letter.key) == (CARD, SECRET)
