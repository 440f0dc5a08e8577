"""Compares what was expected with what came, and says in words where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import msgspec
from msgspec import Struct

from penstock.core.element import UNKNOWN, Element, Outcome
from penstock.deadletters import DeadLetter
from penstock.flowtests.execute import FlowTestRun
from penstock.flowtests.rules import json_equal
from penstock.flowtests.tracing import format_value, outcome_of


def differences(wanted: Any, items: Sequence[Item]) -> tuple[str, ...]:
    """In which ways items are not as many, or not those, that were wanted; nothing when they are."""
    if isinstance(wanted, int):
        if wanted == len(items):
            return ()
        return (f"expected {wanted}, got {len(items)}{_named(items)}",)

    pairs = _matched(wanted, items)
    lacking = [place for place in range(len(wanted)) if place not in pairs]
    left = [place for place in range(len(items)) if place not in pairs.values()]
    if not lacking and not left:
        return ()
    lines = [f"expected {len(wanted)}, got {len(items)}" if len(wanted) != len(items) else "not those expected"]
    for place in lacking:
        nearest = _nearest(wanted[place], [items[other] for other in left])
        if nearest is None:
            lines.append(f"  did not come: {format_value(wanted[place])}")
        else:
            other = left.pop(nearest)
            lines += [
                f"  {format_value(items[other].name)}: {line}" for line in explain(wanted[place], items[other].facts)
            ]
    lines += [f"  not expected: {format_value(items[place].facts)}" for place in left]
    return tuple(lines)


def matches(wanted: Any, item: Item) -> bool:
    """Whether an item is the one that is wanted: by its name, or by the fields that are named."""
    if isinstance(wanted, dict):
        return contains(wanted, item.facts)
    return json_equal(wanted, item.name)


def contains(wanted: Any, found: Any) -> bool:
    """Whether a value has all that is wanted; what is not named does not count."""
    return next(explain(wanted, found), None) is None


def explain(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where a value is not as wanted: `pricing.price is 1001, expected 1000`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        known = cast("Mapping[str, Any]", found)
        for name, value in cast("Mapping[str, Any]", wanted).items():
            inner = f"{path}.{name}" if path else name
            if name in known:
                yield from explain(value, known[name], inner)
            elif value is not None:  # what is not there is nothing
                yield f"{inner} is not there, expected {format_value(value)}"
    elif (pairs := _pairs(wanted, found)) is not None:
        for place, (one, other) in enumerate(pairs):
            yield from explain(one, other, f"{path}[{place}]")
    elif not json_equal(wanted, found):
        yield f"{path or 'it'} is {format_value(found)}, expected {format_value(wanted)}"


def _pairs(wanted: Any, found: Any) -> list[tuple[Any, Any]] | None:
    """Two lists of one length, place by place; None for anything else."""
    if not isinstance(wanted, list | tuple) or not isinstance(found, list | tuple):
        return None
    these, those = cast("Sequence[Any]", wanted), cast("Sequence[Any]", found)
    return list(zip(these, those, strict=True)) if len(these) == len(those) else None


def _matched(wanted: Sequence[Any], items: Sequence[Item]) -> dict[int, int]:
    """As many of what is wanted as can be, each with an item of its own that fits (Kuhn's algorithm)."""

    def fitting(want: int) -> Iterator[int]:
        """The items that fit, beginning at the same place of the list: most come in the order that is expected."""
        for place in chain(range(want, len(items)), range(min(want, len(items)))):
            if matches(wanted[want], items[place]):
                yield place

    owners: dict[int, int] = {}
    for start in range(len(wanted)):
        _find_one(start, fitting, owners)
    return {want: place for place, want in owners.items()}


def _find_one(start: int, fitting: Callable[[int], Iterator[int]], owners: dict[int, int]) -> None:
    """Find an item for one more, by having others take another of theirs."""
    came_from: dict[int, int] = {}
    line = [start]
    for want in line:
        for place in fitting(want):
            if place in came_from:
                continue
            came_from[place] = want
            if place not in owners:
                free: int | None = place
                while free is not None:
                    owner = came_from[free]
                    before = next((other for other, who in owners.items() if who == owner), None)
                    if before is not None:
                        del owners[before]
                    owners[free] = owner
                    free = before
                return
            line.append(owners[place])


def _nearest(wanted: Any, items: Sequence[Item]) -> int | None:
    """The place of the item that was most likely meant: it has some of the fields that are wanted."""
    if not isinstance(wanted, dict):
        return None
    fields = cast("Mapping[str, Any]", wanted)
    scores = [sum(contains({name: value}, item.facts) for name, value in fields.items()) for item in items]
    best = max(scores, default=0)
    return scores.index(best) if best else None


def _named(items: Sequence[Item], most: int = 10) -> str:
    names = [format_value(item.name, 60) for item in items[:most]] + (["…"] if len(items) > most else [])
    return f": {', '.join(names)}" if names else ""


FAILED = ("key", "seq", "part", "step", "type", "message", "attempts", "input")
"""The fields of a failed item."""

LETTER = ("key", "seq", "part", "step", "type", "message", "attempts", "cause", "input", "partial_results")
"""The fields of a dead letter."""


class Item(Struct, frozen=True):
    """One thing that came: what it goes by where only keys are named, and all that is known of it."""

    name: Any
    facts: Any


def results(played: FlowTestRun, *, ok: bool) -> list[Item]:
    """The results that the client was told, or those of failures also where it was not told any more."""
    if ok:
        return [_success(played, record) for record in played.results if record["ok"]]
    told = {record["seq"] for record in played.results if not record["ok"]}
    untold = [
        element
        for seq, element in played.register.elements.items()
        if seq not in told and outcome_of(element) is Outcome.FAILED
    ]
    failed = [_failure(played, record) for record in played.results if not record["ok"]]
    return failed + [_untold(played, element) for element in untold]


def elements(played: FlowTestRun, outcome: Outcome) -> list[Item]:
    """The elements that were settled in one way, as they came in."""
    register = played.register
    return [
        Item(_name(played, element.key, register.inputs[seq]), register.inputs[seq])
        for seq, element in register.elements.items()
        if outcome_of(element) is outcome
    ]


def letters(played: FlowTestRun) -> list[Item]:
    """The dead letters that were stored."""
    return [_letter(played, letter) for letter in played.letters]


def delivered(played: FlowTestRun, outlet: str) -> list[Item]:
    """What an outlet was handed."""
    return [Item(_key(played, value), value) for value in played.delivered[outlet]]


def order(played: FlowTestRun) -> list[Any]:
    """What the results go by, in the order in which the client was told them."""
    return [(_success if record["ok"] else _failure)(played, record).name for record in played.results]


def _success(played: FlowTestRun, record: Mapping[str, Any]) -> Item:
    element = played.register.elements[record["seq"]]
    return Item(_name(played, element.key, record["value"]), record["value"])


def _failure(played: FlowTestRun, record: Mapping[str, Any]) -> Item:
    original = played.register.inputs[record["seq"]]
    key = played.register.elements[record["seq"]].key
    part = {"part": record["part"]} if "part" in record else {}
    return Item(
        _name(played, key, original),
        {"key": key, "seq": record["seq"], **part, **record["error"], "input": original},
    )


def _untold(played: FlowTestRun, element: Element[Any]) -> Item:
    failure = element.failure or UNKNOWN
    error = {name: getattr(failure, name) for name in ("step", "type", "message", "attempts")}
    return _failure(played, {"seq": element.seq, "error": error})


def _letter(played: FlowTestRun, letter: DeadLetter) -> Item:
    text = letter.input.decode("utf-8", "replace")
    try:
        original = msgspec.json.decode(letter.input)
    except Exception:
        original = text
    known = {name: getattr(letter, name) for name in LETTER} | {"input": original}
    facts = {name: value for name, value in known.items() if value is not None or name == "key"}
    return Item(_name(played, letter.key, original), msgspec.to_builtins(facts, enc_hook=repr))


def _key(played: FlowTestRun, value: Any) -> Any:
    """What a value goes by: the field that is the flow's key, if it has it."""
    key = played.flow.key
    if key is None or not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return fields.get(key, fields)


def _name(played: FlowTestRun, key: Any, value: Any) -> Any:
    """What an item goes by: its key, or in a flow without keys its value."""
    return value if played.flow.key is None else key
