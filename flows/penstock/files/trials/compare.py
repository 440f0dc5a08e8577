"""Compares what was expected with what came, and says in words where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from penstock.files.trials.items import Item
from penstock.files.trials.rules import alike
from penstock.files.trials.traces import shown


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
            lines.append(f"  did not come: {shown(wanted[place])}")
        else:
            other = left.pop(nearest)
            lines += [f"  {shown(items[other].name)}: {line}" for line in explain(wanted[place], items[other].facts)]
    lines += [f"  not expected: {shown(items[place].facts)}" for place in left]
    return tuple(lines)


def fits(wanted: Any, item: Item) -> bool:
    """Whether an item is the one that is wanted: by its name, or by the fields that are named."""
    if isinstance(wanted, dict):
        return covers(wanted, item.facts)
    return alike(wanted, item.name)


def covers(wanted: Any, found: Any) -> bool:
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
                yield f"{inner} is not there, expected {shown(value)}"
    elif (pairs := _pairs(wanted, found)) is not None:
        for place, (one, other) in enumerate(pairs):
            yield from explain(one, other, f"{path}[{place}]")
    elif not alike(wanted, found):
        yield f"{path or 'it'} is {shown(found)}, expected {shown(wanted)}"


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
            if fits(wanted[want], items[place]):
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
    scores = [sum(covers({name: value}, item.facts) for name, value in fields.items()) for item in items]
    best = max(scores, default=0)
    return scores.index(best) if best else None


def _named(items: Sequence[Item], most: int = 10) -> str:
    names = [shown(item.name, 60) for item in items[:most]] + (["…"] if len(items) > most else [])
    return f": {', '.join(names)}" if names else ""
