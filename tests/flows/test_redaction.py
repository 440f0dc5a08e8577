"""Dead letters do not keep what is secret: not in the input, not in what was found, not in the key or the error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from laws.virtual import quiet
from penstock import Flow, from_iterable, ndjson
from penstock.core import element
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore, as_document
from penstock.errors import SERVICE_MESSAGE_LIMIT, FlowDefinitionError
from penstock.results import DiscardResults

SECRET = "4111-1111"


def refuse(value: Any) -> Any:
    raise ValueError(f"card {value['card']['number']} of {value['card']['codes']} is refused")


def letter_of(value: Any, *paths: str, key: str | None = None) -> DeadLetter:
    """The letter of one value that fails."""

    async def main() -> DeadLetter:
        store = MemoryStore()
        flow = Flow[Any]("f", key=key).enrich(asked=lambda value: {"card": value["card"]}).map(refuse)
        async for _ in flow.dead_letters(store, redact=paths).stream(from_iterable([value])):
            pass
        return (await store.page(DeadLetterQuery())).letters[0]

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


@pytest.mark.parametrize(
    "write",
    [repr, json.dumps, lambda text: msgspec.json.encode(text).decode()],
    ids=["python", "json", "json in utf-8"],
)
def test_an_error_that_quotes_a_value_does_not_tell_it(write: Any) -> None:
    """Python and JSON write some characters in another way."""
    secret = '12\\34-"Zoé" TOP\'SECRET\n5678'

    def quote(value: Any) -> Any:
        raise ValueError(f"cannot take {write(value['card'])}")

    (letter,) = letters_of(Flow("f").map(quote), {"card": secret}, redact=["card"])
    quoted = write(secret)
    assert letter.message == f"cannot take {quoted[0]}[redacted]{quoted[-1]}"


def test_the_end_of_a_long_message_does_not_tell_half_of_a_value() -> None:
    """It is cut off in the middle of it."""

    def quote(value: Any) -> Any:
        raise ValueError("x" * 1990 + value["card"])

    (letter,) = letters_of(Flow("f").map(quote), {"card": SECRET * 4}, redact=["card"])
    assert letter.message == "x" * 1990 + "[redacted]"


class Card(Struct):
    """An answer that is no dict."""

    number: str
    codes: tuple[int, ...] = ()


def letters_of(flow: Flow[Any], *values: Any, redact: list[str]) -> list[DeadLetter]:
    """The letters of values through a flow, once its run has completed."""

    async def main() -> list[DeadLetter]:
        store = MemoryStore()
        summary = await flow.dead_letters(store, redact=redact).start(from_iterable(values), DiscardResults()).finished
        assert (summary.reason, summary.cancelled) == ("completed", 0)
        return (await store.page(DeadLetterQuery())).letters

    return quiet(main())


def test_redacted_fields_of_structs_and_tuples_are_not_kept() -> None:
    """Answers and inputs of other kinds than dicts and lists have fields too."""

    def broken(_: Any) -> Any:
        raise ValueError(f"no service for {SECRET}")

    flow = Flow[Any]("f").enrich(card=lambda _: Card(SECRET, (1, 2)), other=broken)
    value = {"cards": ({"number": SECRET}, {"number": "5"}), "odd": object()}
    [letter] = letters_of(flow, value, redact=["card.number", "cards.number"])

    assert letter.partial_results == {"card (not reused)": {"number": "[redacted]", "codes": [1, 2]}}
    assert json.loads(letter.input) == {"cards": [{"number": "[redacted]"}] * 2, "odd": "[redacted]"}
    assert letter.message == "no service for [redacted]"


def test_an_answer_does_not_tell_what_stood_in_a_field_of_it() -> None:
    """A path is one of each answer too, and what stood at its end is in no text, number or name of any of them."""

    def broken(_: Any) -> Any:
        raise ValueError("no")

    risk = {
        "card": {"number": SECRET, "pin": 1234},
        "echo": f"card {SECRET}",
        "all": [{SECRET: 1234, "n": 12345}, True],
    }
    flow = Flow[Any]("f").enrich(risk=lambda _: risk, other=lambda _: (f"<{SECRET}>", None), last=broken)
    [letter] = letters_of(flow, {"id": 1}, redact=["card.number", "card.pin"])

    assert letter.partial_results == {
        "risk (not reused)": {
            "card": {"number": "[redacted]", "pin": "[redacted]"},
            "echo": "card [redacted]",
            "all": [{"[redacted]": "[redacted]", "n": 12345}, True],
        },
        "other (not reused)": ["<[redacted]>", None],
    }


def test_the_size_of_a_letter_is_that_of_what_came_in() -> None:
    """However much of it is kept: a line that was cut, one without its secret fields, and one that has none."""
    lines = [b'{"card": "4111", "pad": "%b"}' % (b"x" * 5000), b'{"card": "41111111111111"}', b'{ "n": 1 }']
    store = MemoryStore()
    flow = Flow[Any]("f").map(lambda _: 1 // 0).dead_letters(store, redact=["card"])

    async def main() -> list[DeadLetter]:
        async for _ in flow.stream(ndjson(from_bytes(b"\n".join(lines)), limit=1000)):
            pass
        return (await store.page(DeadLetterQuery())).letters

    letters = sorted(quiet(main()), key=lambda letter: letter.seq)
    assert [(letter.input_size, as_document(letter)["input"]["complete"]) for letter in letters] == [
        (len(lines[0]), False), (len(lines[1]), False), (len(lines[2]), True),
    ]  # fmt: skip
    assert letters[2].input == lines[2]


async def from_bytes(data: bytes) -> Any:
    """One chunk."""
    yield data


def test_an_answer_that_is_no_json_is_not_kept_at_all() -> None:
    """As with inputs; the other answers are."""

    def broken(_: Any) -> Any:
        raise ValueError("no")

    flow = Flow[Any]("f").enrich(raw=lambda _: b"\xff 4111", even=lambda _: 2, other=broken)
    [letter] = letters_of(flow, {"id": 1}, redact=["card"])

    assert letter.partial_results == {"raw (not reused)": "[redacted]", "even": 2}


def test_what_an_earlier_step_found_is_not_told_by_an_error() -> None:
    """A secret that the input does not have comes with the value."""
    flow = Flow[Any]("f").enrich(asked=lambda _: {"pin": SECRET}).map(lambda value: int(value["asked"]["pin"]))
    [letter] = letters_of(flow, {"id": 1}, redact=["asked.pin"])

    assert letter.message == "invalid literal for int() with base 10: '[redacted]'"


def deep(levels: int) -> Any:
    """A list in a list, and so on."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    "make", [lambda: deep(100_000), lambda: {"card": deep(450), "note": deep(450)}], ids=["endless", "deep"]
)
def test_what_is_nested_too_deeply_is_not_kept(make: Callable[[], Any]) -> None:
    """Its letter is written without it, and the run goes on."""
    letters = letters_of(Flow[Any]("f").map(refuse), make(), CARD, redact=["id", "card.number"])

    assert len(letters) == 2
    assert SECRET not in repr(letters)


def test_texts_are_masked_from_the_shortest_length_to_which_they_are_cut() -> None:
    """A service's message is cut before it becomes the message of a failure, which is cut too."""
    assert SERVICE_MESSAGE_LIMIT <= element.MESSAGE_LIMIT


def test_paths_are_several() -> None:
    """One text would be taken for its letters, and nothing would be redacted."""
    with pytest.raises(FlowDefinitionError, match=r"redact=\['card'\]"):
        Flow[Any]("f").dead_letters(MemoryStore(), redact="card")


@pytest.mark.parametrize("secret", ["4", "4111", "4111411141", "41114111411141114111"])
def test_a_redacted_input_is_never_complete(secret: str) -> None:
    """Also if the secret is as long as what replaces it: redriving it would send [redacted] to a service."""
    kept = letter_of({"card": secret}, "card")
    assert json.loads(kept.input) == {"card": "[redacted]"}
    assert (kept.complete, kept.input_size) == (False, len(secret) + 11)


def test_what_is_no_json_is_not_kept_at_all() -> None:
    """In such an input nobody can tell the secret fields from the others."""
    assert letter_of(b'{"card": "4111', "card").input == b"[redacted: this input is not JSON]"


def test_without_paths_a_letter_is_what_came_in() -> None:
    """Nothing is changed for flows that keep no secrets."""
    letter = letter_of(CARD, key="id")

    assert (json.loads(letter.input), letter.key) == (CARD, SECRET)
