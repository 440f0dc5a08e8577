"""Compare the items of a test run with the expected ones, and describe the differences."""

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


def differences(expected: Any, items: Sequence[Item]) -> tuple[str, ...]:
    """Describe how items differ from the expected number or list; the result is empty if they do not differ."""
    if isinstance(expected, int):
        if expected == len(items):
            return ()
        return (f"expected {expected}, got {len(items)}{_name_list(items)}",)

    pairs = _match(expected, items)
    missing = [index for index in range(len(expected)) if index not in pairs]
    unexpected = [index for index in range(len(items)) if index not in pairs.values()]
    if not missing and not unexpected:
        return ()
    lines = [f"expected {len(expected)}, got {len(items)}" if len(expected) != len(items) else "different items"]
    for index in missing:
        nearest = _nearest(expected[index], [items[other] for other in unexpected])
        if nearest is None:
            lines.append(f"  missing: {format_value(expected[index])}")
        else:
            item = items[unexpected.pop(nearest)]
            lines += [f"  {format_value(item.name)}: {line}" for line in explain(expected[index], item.value)]
    lines += [f"  unexpected: {format_value(items[index].value)}" for index in unexpected]
    return tuple(lines)


def matches(expected: Any, item: Item) -> bool:
    """Return whether an item is an expected one: by its name, or by the fields that are expected."""
    if isinstance(expected, dict):
        return contains(expected, item.value)
    return json_equal(expected, item.name)


def contains(expected: Any, found: Any) -> bool:
    """Return whether a value has all expected fields; it may have more."""
    return next(explain(expected, found), None) is None


def explain(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Describe where a value differs from the expected one: `pricing.price is 1001, expected 1000`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        known = cast("Mapping[str, Any]", found)
        for name, value in cast("Mapping[str, Any]", expected).items():
            inner = f"{path}.{name}" if path else name
            if name in known:
                yield from explain(value, known[name], inner)
            elif value is not None:  # null is expected of a missing field
                yield f"{inner} is missing, expected {format_value(value)}"
    elif (pairs := _pairs(expected, found)) is not None:
        for index, (one, other) in enumerate(pairs):
            yield from explain(one, other, f"{path}[{index}]")
    elif not json_equal(expected, found):
        yield f"{path or 'it'} is {format_value(found)}, expected {format_value(expected)}"


def _pairs(expected: Any, found: Any) -> list[tuple[Any, Any]] | None:
    """Return the pairs of items of two lists of the same length; None for anything else."""
    if not isinstance(expected, list | tuple) or not isinstance(found, list | tuple):
        return None
    these, those = cast("Sequence[Any]", expected), cast("Sequence[Any]", found)
    return list(zip(these, those, strict=True)) if len(these) == len(those) else None


def _match(expected: Sequence[Any], items: Sequence[Item]) -> dict[int, int]:
    """Match as many expected items as possible, each with a different item (Kuhn's algorithm). Returns indexes."""

    def candidates(index: int) -> Iterator[int]:
        """Yield the items that match, starting at the same index: most items have the expected order."""
        for other in chain(range(index, len(items)), range(min(index, len(items)))):
            if matches(expected[index], items[other]):
                yield other

    owners: dict[int, int] = {}
    for start in range(len(expected)):
        _augment(start, candidates, owners)
    return {owner: item for item, owner in owners.items()}


def _augment(start: int, candidates: Callable[[int], Iterator[int]], owners: dict[int, int]) -> None:
    """Match one more expected item, if others can be matched with different items."""
    reached_from: dict[int, int] = {}
    queue = [start]
    for expected in queue:
        for item in candidates(expected):
            if item in reached_from:
                continue
            reached_from[item] = expected
            if item not in owners:
                free: int | None = item
                while free is not None:
                    owner = reached_from[free]
                    before = next((other for other, current in owners.items() if current == owner), None)
                    if before is not None:
                        del owners[before]
                    owners[free] = owner
                    free = before
                return
            queue.append(owners[item])


def _nearest(expected: Any, items: Sequence[Item]) -> int | None:
    """Return the index of the item that was most likely meant: it has the most of the expected fields."""
    if not isinstance(expected, dict):
        return None
    fields = cast("Mapping[str, Any]", expected)
    scores = [sum(contains({name: value}, item.value) for name, value in fields.items()) for item in items]
    best = max(scores, default=0)
    return scores.index(best) if best else None


def _name_list(items: Sequence[Item], limit: int = 10) -> str:
    names = [format_value(item.name, 60) for item in items[:limit]] + (["…"] if len(items) > limit else [])
    return f": {', '.join(names)}" if names else ""


FAILURE_FIELDS = ("key", "seq", "part", "step", "type", "message", "attempts", "input")
"""The fields of a failed item."""

LETTER_FIELDS = ("key", "seq", "part", "step", "type", "message", "attempts", "cause", "input", "partial_results")
"""The fields of a dead letter."""


class Item(Struct, frozen=True):
    """An item of a test run."""

    name: Any
    """Its key; in a flow without keys its value."""
    value: Any
    """Its value, or the record of its failure."""


def results(run: FlowTestRun, *, ok: bool) -> list[Item]:
    """Return the results that the client received. Failures that it did not receive any more are included."""
    if ok:
        return [_success(run, record) for record in run.results if record["ok"]]
    received = {record["seq"] for record in run.results if not record["ok"]}
    others = [
        element
        for seq, element in run.recorder.elements.items()
        if seq not in received and outcome_of(element) is Outcome.FAILED
    ]
    failed = [_failure(run, record) for record in run.results if not record["ok"]]
    return failed + [_failed_element(run, element) for element in others]


def elements(run: FlowTestRun, outcome: Outcome) -> list[Item]:
    """Return the elements with an outcome, as they were received."""
    recorder = run.recorder
    return [
        Item(_name(run, element.key, recorder.inputs[seq]), recorder.inputs[seq])
        for seq, element in recorder.elements.items()
        if outcome_of(element) is outcome
    ]


def letters(run: FlowTestRun) -> list[Item]:
    """Return the dead letters that were stored."""
    return [_letter(run, letter) for letter in run.letters]


def delivered(run: FlowTestRun, sink: str) -> list[Item]:
    """Return the values that a sink accepted."""
    return [Item(_key(run, value), value) for value in run.delivered[sink]]


def order(run: FlowTestRun) -> list[Any]:
    """Return the names of the results, in the order in which the client received them."""
    return [(_success if record["ok"] else _failure)(run, record).name for record in run.results]


def _success(run: FlowTestRun, record: Mapping[str, Any]) -> Item:
    element = run.recorder.elements[record["seq"]]
    return Item(_name(run, element.key, record["value"]), record["value"])


def _failure(run: FlowTestRun, record: Mapping[str, Any]) -> Item:
    original = run.recorder.inputs[record["seq"]]
    key = run.recorder.elements[record["seq"]].key
    part = {"part": record["part"]} if "part" in record else {}
    return Item(
        _name(run, key, original),
        {"key": key, "seq": record["seq"], **part, **record["error"], "input": original},
    )


def _failed_element(run: FlowTestRun, element: Element[Any]) -> Item:
    failure = element.failure or UNKNOWN
    error = {name: getattr(failure, name) for name in ("step", "type", "message", "attempts")}
    return _failure(run, {"seq": element.seq, "error": error})


def _letter(run: FlowTestRun, letter: DeadLetter) -> Item:
    text = letter.input.decode("utf-8", "replace")
    try:
        original = msgspec.json.decode(letter.input)
    except Exception:
        original = text
    known = {name: getattr(letter, name) for name in LETTER_FIELDS} | {"input": original}
    fields = {name: value for name, value in known.items() if value is not None or name == "key"}
    return Item(_name(run, letter.key, original), msgspec.to_builtins(fields, enc_hook=repr))


def _key(run: FlowTestRun, value: Any) -> Any:
    """Return the name of a value: its key field, or the value itself without one."""
    key = run.flow.key
    if key is None or not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return fields.get(key, fields)


def _name(run: FlowTestRun, key: Any, value: Any) -> Any:
    """Return the name of an item: its key; in a flow without keys its value."""
    return value if run.flow.key is None else key
