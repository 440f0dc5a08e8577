"""What came of a test, as the items that its expectations are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from penstock.deadletters import DeadLetter
from penstock.element import UNKNOWN, Element, Outcome
from penstock.files.trials.elements import fate
from penstock.files.trials.play import Played

FAILED = ("key", "seq", "part", "step", "type", "message", "attempts", "input")
"""The fields of a failed item."""

LETTER = ("key", "seq", "part", "step", "type", "message", "attempts", "cause", "input", "partial_results")
"""The fields of a dead letter."""


class Item(Struct, frozen=True):
    """One thing that came: what it goes by where only keys are named, and all that is known of it."""

    name: Any
    facts: Any


def results(played: Played, *, ok: bool) -> list[Item]:
    """The results that the client was told, or those of failures also where it was not told any more."""
    if ok:
        return [_success(played, record) for record in played.results if record["ok"]]
    told = {record["seq"] for record in played.results if not record["ok"]}
    untold = [
        element
        for seq, element in played.register.elements.items()
        if seq not in told and fate(element) is Outcome.FAILED
    ]
    failed = [_failure(played, record) for record in played.results if not record["ok"]]
    return failed + [_untold(played, element) for element in untold]


def elements(played: Played, outcome: Outcome) -> list[Item]:
    """The elements that were settled in one way, as they came in."""
    register = played.register
    return [
        Item(_name(played, element.key, register.inputs[seq]), register.inputs[seq])
        for seq, element in register.elements.items()
        if fate(element) is outcome
    ]


def letters(played: Played) -> list[Item]:
    """The dead letters that were stored."""
    return [_letter(played, letter) for letter in played.letters]


def delivered(played: Played, outlet: str) -> list[Item]:
    """What an outlet was handed."""
    return [Item(_key(played, value), value) for value in played.delivered[outlet]]


def order(played: Played) -> list[Any]:
    """What the results go by, in the order in which the client was told them."""
    return [(_success if record["ok"] else _failure)(played, record).name for record in played.results]


def _success(played: Played, record: Mapping[str, Any]) -> Item:
    element = played.register.elements[record["seq"]]
    return Item(_name(played, element.key, record["value"]), record["value"])


def _failure(played: Played, record: Mapping[str, Any]) -> Item:
    original = played.register.inputs[record["seq"]]
    key = played.register.elements[record["seq"]].key
    part = {"part": record["part"]} if "part" in record else {}
    return Item(
        _name(played, key, original),
        {"key": key, "seq": record["seq"], **part, **record["error"], "input": original},
    )


def _untold(played: Played, element: Element[Any]) -> Item:
    failure = element.failure or UNKNOWN
    error = {name: getattr(failure, name) for name in ("step", "type", "message", "attempts")}
    return _failure(played, {"seq": element.seq, "error": error})


def _letter(played: Played, letter: DeadLetter) -> Item:
    text = letter.input.decode("utf-8", "replace")
    try:
        original = msgspec.json.decode(letter.input)
    except Exception:
        original = text
    known = {name: getattr(letter, name) for name in LETTER} | {"input": original}
    facts = {name: value for name, value in known.items() if value is not None or name == "key"}
    return Item(_name(played, letter.key, original), msgspec.to_builtins(facts, enc_hook=repr))


def _key(played: Played, value: Any) -> Any:
    """What a value goes by: the field that is the flow's key, if it has it."""
    key = played.flow.key
    if key is None or not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return fields.get(key, fields)


def _name(played: Played, key: Any, value: Any) -> Any:
    """What an item goes by: its key, or in a flow without keys its value."""
    return value if played.flow.key is None else key
