"""From the section `tests` of a flow file to tests that can be played; what the flow knows nothing of is a mistake."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from types import new_class
from typing import Any

from penstock.errors import ElementError, InvalidExpression, ServiceErrorResponse
from penstock.expressions import Expression, Fields
from penstock.flow.flow import Flow
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted
from penstock.flowfile.forms.choices import Chosen
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.forms.record import Read
from penstock.flowfile.limits import MAX_EXPRESSION
from penstock.flowtests.compare import FAILED, LETTER
from penstock.flowtests.forms import OpenRead
from penstock.flowtests.models import (
    CountRange,
    Expectation,
    FlowTest,
    Hangs,
    Raises,
    Returns,
    RunEvent,
    ScheduledEvent,
    StoreOutage,
    StubRule,
)


def load_tests(read: Any, mistakes: Diagnostics, flow: Flow[Any], *, complete: bool = True) -> tuple[FlowTest, ...]:
    """The tests of a flow, of what the shape `CASES` read. Mistakes are noted; a test that has one is left out.

    A flow that is not `complete` lacks steps, so names that it does not know may be right.
    """
    if read is None or read is MISSING:
        return ()
    tests: Sequence[Read] = read
    names: set[str] = set()
    cases: list[FlowTest] = []
    for test in tests:
        before = len(mistakes)
        if test["name"] in names:
            mistakes.add(test.at("name"), f"found a second test {quoted(test['name'])}", wanted="a name of its own")
        names.add(test["name"])
        case = _case(test, mistakes, flow, KnownNames(flow, complete, mistakes))
        if len(mistakes) == before:
            cases.append(case)
    return tuple(cases)


def _case(test: Read, mistakes: Diagnostics, flow: Flow[Any], names: KnownNames) -> FlowTest:
    given, window = test["given"], test["window"]
    if isinstance(given, Read):
        given = given["generate"]
        if flow.sample_factory is None:
            mistakes.add(test.at("given"), f"the flow {flow.name} has no samples", wanted="a list of values")
    events, downtimes = _events(test, mistakes)
    return FlowTest(
        name=test["name"],
        given=given,
        expected=_expected(test["expect"], mistakes, names),
        rules=_rules(test, mistakes, names),
        events=events,
        downtimes=downtimes,
        every=test["every"] or 0.0,
        client_delay=test["client_delay"] or 0.0,
        elements=window["elements"] if isinstance(window, Read) else window,
        bytes=window["bytes"] if isinstance(window, Read) else None,
        ordered=None if test["order"] is None else test["order"] == "input",
        seed=test["seed"],
        place=test.node.place,
    )


def _rules(test: Read, mistakes: Diagnostics, names: KnownNames) -> dict[str, tuple[StubRule, ...]]:
    names.check(test, "when", names.called, "service")
    written: Mapping[str, OpenRead | tuple[OpenRead, ...]] = test["when"] or {}
    return {
        name: tuple(
            rule_of(name, rule, mistakes, is_outlet=name in names.outlets and name not in names.services)
            for rule in (one if isinstance(one, tuple) else (one,))
        )
        for name, one in written.items()
    }


def _events(test: Read, mistakes: Diagnostics) -> tuple[tuple[ScheduledEvent, ...], tuple[StoreOutage, ...]]:
    events: list[ScheduledEvent] = []
    downtimes: list[StoreOutage] = []
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
            downtimes.append(StoreOutage(beside["from"] or 0.0, beside["to"]))
            continue
        if chosen.value is False:
            mistakes.add(chosen.at, "found false", wanted="true, or the event left out")
        if "at" not in beside:
            mistakes.add(chosen.key, f'"{kind}" does not say when', wanted='"at" beside it')
        events.append(ScheduledEvent(beside["at"] or 0.0, RunEvent(kind), beside.node.place))
    return tuple(events), tuple(downtimes)


def _times_of(kind: str) -> tuple[str, ...]:
    return ("from", "to") if kind == "store" else ("at",)


def _expected(read: Read, mistakes: Diagnostics, names: KnownNames) -> Expectation:
    if all(name not in read for name in read):
        mistakes.add(read.node, "nothing is expected", wanted="at least one expectation", hint="such as ok: 3")
    for name in ("calls", "peak_calls"):
        names.check(read, name, names.called, "service")
    names.check(read, "delivered", names.outlets, "outlet")
    names.check_records(read, "failed", FAILED)
    names.check_records(read, "dead_letters", LETTER)
    values = {name: read[name] for name in read}
    for name in ("calls", "peak_calls"):
        counts: Mapping[str, Any] = read[name] or {}
        values[name] = {service: _bounds(one) for service, one in counts.items()}
    values["in_flight"] = None if read["in_flight"] is None else _bounds(read["in_flight"])
    values["delivered"] = read["delivered"] or {}
    return Expectation(**values)


def _bounds(read: Any) -> CountRange:
    return CountRange(read["min"] or 0, read["max"]) if isinstance(read, Read) else CountRange(read, read)


DEEDS = ("returns", "expression", "raises", "hangs")


def rule_of(name: str, read: OpenRead, mistakes: Diagnostics, *, is_outlet: bool) -> StubRule:
    """The rule for a service or an outlet of this name; what is wrong with it is noted."""
    fields = read.fields
    said = [name for name in DEEDS if name in fields]
    if len(said) > 1:
        mistakes.add(fields.at(said[1]), f'"{said[1]}" stands beside "{said[0]}"', wanted="only one of them")
    if not said and "delay" not in fields:
        mistakes.add(read.node, "the rule does not say what happens", wanted=f"one of {', '.join((*DEEDS, 'after'))}")
    if is_outlet and said and said[0] in ("returns", "expression"):
        mistakes.add(fields.at(said[0]), f'an outlet has no use for "{said[0]}"', allowed=("raises", "hangs", "delay"))
    if fields["to"] is not None and fields["to"] <= (fields["from"] or 0):
        mistakes.add(fields.at("to"), 'found a "to" that is not after "from"')
    return StubRule(
        deed=_deed(name, said[0], fields, mistakes) if said else None,
        delay=fields["delay"] or 0.0,
        fields=read.others,
        condition=None if fields["if"] is None else _condition(fields["if"], fields.at("if"), mistakes),
        calls=_numbers(fields["call"]),
        attempts=_numbers(fields["attempt"]),
        since=fields["from"] or 0.0,
        until=fields["to"],
        place=read.node.place,
    )


def _numbers(read: Any) -> tuple[int, ...]:
    return (read,) if isinstance(read, int) else tuple(read or ())


def _deed(name: str, word: str, fields: Read, mistakes: Diagnostics) -> Returns | Raises | Hangs | None:
    value, node = fields[word], fields.at(word)
    match word:
        case "returns":
            return Returns(lambda _: deepcopy(value))
        case "expression":
            return _computed(value, node, mistakes)
        case "raises":
            return _raised(name, value, node, mistakes)
        case _:
            if value is False:
                mistakes.add(node, "found false", wanted="true, or the word left out")
            return Hangs()


def _computed(value: Any, node: Node, mistakes: Diagnostics) -> Returns | None:
    if isinstance(value, str):
        expression = _expression(value, node, mistakes)
        return None if expression is None else Returns(expression)
    parts = {name: _expression(text, node.get(name) or node, mistakes) for name, text in value.items()}
    known = {name: part for name, part in parts.items() if part is not None}
    return Returns(Fields(known)) if len(known) == len(parts) else None


def _condition(text: str, node: Node, mistakes: Diagnostics) -> Expression | None:
    expression = _expression(text, node, mistakes)
    if expression is not None and expression.result_type not in ("BOOL", "DYN"):
        mistakes.add(
            node, f"found an expression that gives {expression.result_type}", wanted="one that is true or false"
        )
    return expression


def _expression(text: str, node: Node, mistakes: Diagnostics) -> Expression | None:
    mistakes.expressions.add(len(text), node)
    if len(text) > MAX_EXPRESSION:
        wanted = f"at most {MAX_EXPRESSION} characters"
        mistakes.add(node, f"found an expression of {len(text)} characters", wanted=wanted)
        return None
    try:
        return Expression(text)
    except InvalidExpression as error:
        mistakes.add(
            node, f"found the expression {error.text!r}: {error.reason}", hint=f"look at column {error.column}"
        )
        return None


def _raised(name: str, value: Any, node: Node, mistakes: Diagnostics) -> Raises | None:
    if isinstance(value, str):
        return Raises(_errors("Scripted", value, retryable=True))
    if value["status"] is not None:
        if "retryable" in value:
            mistakes.add(value.at("retryable"), '"retryable" stands beside "status"', wanted="only the status")
        status, message, kind = value["status"], value["message"] or "", value["type"]
        return Raises(lambda: ServiceErrorResponse(name, status, message, value["retry_after"], kind))
    if "retry_after" in value:
        mistakes.add(value.at("retry_after"), 'found "retry_after" without a status', wanted="a status beside it")
    if value["message"] is None and value["type"] is None:
        mistakes.add(node, "the error says nothing", wanted="a message, a type or a status")
    make = _errors(value["type"] or "Scripted", value["message"] or "", retryable=value["retryable"] is not False)
    try:
        make()
    except Exception:
        mistakes.add(value.at("type"), f"an error {value['type']} is not made of a message", wanted="another type")
        return None
    return Raises(make)


def _errors(type_name: str, message: str, *, retryable: bool) -> Callable[[], Exception]:
    """Makes errors of a type by its name: one of Python's, or one that is made for it."""
    known = getattr(builtins, type_name, None)
    base: type[Exception] = known if isinstance(known, type) and issubclass(known, Exception) else ElementError
    error: Callable[[str], Exception] = new_class(
        type_name, (base,), exec_body=lambda body: body.update(retryable=retryable)
    )
    return lambda: error(message)


class KnownNames:
    """What a flow has names for. One that is not complete may have more, so no name is wrong there."""

    def __init__(self, flow: Flow[Any], complete: bool, mistakes: Diagnostics) -> None:
        self.services = sorted({service.name for service in flow.all_services})
        self.outlets = list(flow.all_sinks)
        self._places = flow.failure_points
        self._complete = complete
        self._mistakes = mistakes

    @property
    def called(self) -> list[str]:
        """What is called: services and outlets."""
        return [*self.services, *sorted(set(self.outlets) - set(self.services))]

    def check(self, read: Read, field: str, names: Sequence[str], what: str) -> None:
        """The names under a field have to be those of services or outlets."""
        node = read.node.get(field)
        for key, _ in node.value if node is not None and self._complete else ():
            if key.value in names:
                continue
            if names:
                self._mistakes.add(key, f"found {key.shown()}", allowed=names, nearest=key.value)
            else:
                self._mistakes.add(key, f"found {key.shown()}, but the flow has no {what}")

    def check_records(self, read: Read, field: str, fields: Iterable[str]) -> None:
        """Records of failures have fields of their own, and steps that the flow has."""
        node = read.node.get(field)
        for item in node.value if node is not None and node.kind == "list" else ():
            for key, value in item.value if item.kind == "mapping" else ():
                if key.value not in fields:
                    self._mistakes.add(key, f"found {key.shown()}", allowed=fields, nearest=key.value)
                elif key.value == "step" and self._complete and value.value not in self._places:
                    nearest = str(value.value)
                    self._mistakes.add(value, f"found {value.shown()}", allowed=self._places, nearest=nearest)
