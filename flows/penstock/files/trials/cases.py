"""From the section `tests` of a flow file to tests that can be played; what the flow knows nothing of is a mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.files.choices import Chosen
from penstock.files.mistakes import Mistakes
from penstock.files.node import quoted
from penstock.files.records import Read
from penstock.files.shapes import MISSING
from penstock.files.trials.case import Bounds, Case, Downtime, Event, Expected, Happening, Rule
from penstock.files.trials.items import FAILED, LETTER
from penstock.files.trials.names import FlowNames
from penstock.files.trials.open_records import OpenRead
from penstock.files.trials.rule_of import rule_of
from penstock.flow import Flow


def cases_of(read: Any, mistakes: Mistakes, flow: Flow[Any], *, complete: bool = True) -> tuple[Case, ...]:
    """The tests of a flow, of what the shape `CASES` read. Mistakes are noted; a test that has one is left out.

    A flow that is not `complete` lacks steps, so names that it does not know may be right.
    """
    if read is None or read is MISSING:
        return ()
    tests: Sequence[Read] = read
    names: set[str] = set()
    cases: list[Case] = []
    for test in tests:
        before = len(mistakes)
        if test["name"] in names:
            mistakes.add(test.at("name"), f"found a second test {quoted(test['name'])}", wanted="a name of its own")
        names.add(test["name"])
        case = _case(test, mistakes, flow, FlowNames(flow, complete, mistakes))
        if len(mistakes) == before:
            cases.append(case)
    return tuple(cases)


def _case(test: Read, mistakes: Mistakes, flow: Flow[Any], names: FlowNames) -> Case:
    given, window = test["given"], test["window"]
    if isinstance(given, Read):
        given = given["generate"]
        if flow.samples is None:
            mistakes.add(test.at("given"), f"the flow {flow.name} has no samples", wanted="a list of values")
    events, downtimes = _events(test, mistakes)
    return Case(
        name=test["name"],
        given=given,
        expected=_expected(test["expect"], mistakes, names),
        rules=_rules(test, mistakes, names),
        events=events,
        downtimes=downtimes,
        every=test["every"] or 0.0,
        pace=test["pace"] or 0.0,
        elements=window["elements"] if isinstance(window, Read) else window,
        bytes=window["bytes"] if isinstance(window, Read) else None,
        ordered=None if test["order"] is None else test["order"] == "input",
        seed=test["seed"],
        place=test.node.place,
    )


def _rules(test: Read, mistakes: Mistakes, names: FlowNames) -> dict[str, tuple[Rule, ...]]:
    names.check(test, "when", names.called, "service")
    written: Mapping[str, OpenRead | tuple[OpenRead, ...]] = test["when"] or {}
    return {
        name: tuple(
            rule_of(name, rule, mistakes, is_outlet=name in names.outlets and name not in names.services)
            for rule in (one if isinstance(one, tuple) else (one,))
        )
        for name, one in written.items()
    }


def _events(test: Read, mistakes: Mistakes) -> tuple[tuple[Event, ...], tuple[Downtime, ...]]:
    events: list[Event] = []
    downtimes: list[Downtime] = []
    chosen: Chosen
    for chosen in test["events"] or ():
        beside, kind = chosen.beside, chosen.kind
        strangers = ("at",) if kind == "store" else ("from", "to")
        for name in strangers:
            if name in beside:
                mistakes.add(beside.at(name), f'found "{name}" beside "{kind}"', allowed=_times_of(kind))
        if kind == "store":
            if beside["to"] is not None and beside["to"] <= (beside["from"] or 0):
                mistakes.add(beside.at("to"), 'found a "to" that is not after "from"')
            downtimes.append(Downtime(beside["from"] or 0.0, beside["to"]))
            continue
        if chosen.value is False:
            mistakes.add(chosen.at, "found false", wanted="true, or the event left out")
        if "at" not in beside:
            mistakes.add(chosen.key, f'"{kind}" does not say when', wanted='"at" beside it')
        events.append(Event(beside["at"] or 0.0, Happening(kind), beside.node.place))
    return tuple(events), tuple(downtimes)


def _times_of(kind: str) -> tuple[str, ...]:
    return ("from", "to") if kind == "store" else ("at",)


def _expected(read: Read, mistakes: Mistakes, names: FlowNames) -> Expected:
    if all(name not in read for name in read):
        mistakes.add(read.node, "nothing is expected", wanted="at least one expectation", hint="such as ok: 3")
    for name in ("calls", "at_once"):
        names.check(read, name, names.called, "service")
    names.check(read, "delivered", names.outlets, "outlet")
    names.check_records(read, "failed", FAILED)
    names.check_records(read, "dead_letters", LETTER)
    values = {name: read[name] for name in read}
    for name in ("calls", "at_once"):
        counts: Mapping[str, Any] = read[name] or {}
        values[name] = {service: _bounds(one) for service, one in counts.items()}
    values["in_flight"] = None if read["in_flight"] is None else _bounds(read["in_flight"])
    values["delivered"] = read["delivered"] or {}
    return Expected(**values)


def _bounds(read: Any) -> Bounds:
    return Bounds(read["least"] or 0, read["most"]) if isinstance(read, Read) else Bounds(read, read)
