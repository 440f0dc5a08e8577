"""Load the tests of a flow, and check their names against the flow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.flow.flow import Flow
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.load import FlowFile, FlowReading
from penstock.flowfile.reader import text_of
from penstock.flowtests.compare import FAILURE_FIELDS, LETTER_FIELDS
from penstock.flowtests.models import (
    ACTIONS,
    TESTS,
    TESTS_FILE,
    Expectation,
    FlowTest,
    StubError,
    StubRule,
    check_times,
)
from penstock.runtime.order import Order


@dataclass(frozen=True, slots=True)
class TestedFlow:
    """A flow file with its tests."""

    __test__ = False  # not a test class for pytest

    file: FlowFile
    tests: tuple[FlowTest, ...]
    """The tests in the file, and those in the file beside it: `NAME.test.yaml`."""

    @property
    def flow(self) -> Flow[Any]:
        """The flow."""
        return self.file.flow


def load(path: str | Path, *, environment: Mapping[str, str] = os.environ) -> TestedFlow:
    """Load a flow file with its tests. Raises `FlowFileError` with all errors of both."""
    path = Path(path)
    beside = tests_beside(path)
    return loads(text_of(path), path, environment=environment, tests=beside if beside.exists() else None)


def loads(
    text: str, path: str | Path, *, environment: Mapping[str, str] = os.environ, tests: Path | None = None
) -> TestedFlow:
    """Load the flow in a text with its tests, and those in the file `tests`. Raises `FlowFileError` with all errors."""
    reading = FlowReading(text, Path(path), environment)
    diagnostics = reading.diagnostics
    diagnostics.subject = "tests"
    own = None if reading.tests is None else TESTS.read(reading.tests, diagnostics)
    diagnostics.subject = ""
    more = None if tests is None else reading.reader.other(tests, TESTS_FILE)
    valid: tuple[FlowTest, ...] = ()
    if reading.flow is not None and reading.valid:
        for part in (own, None if more is None or more is MISSING else more.tests):
            if part is not None and part is not MISSING:
                valid += check_tests(part, reading.flow, diagnostics, complete=reading.complete)
    return TestedFlow(reading.file(), valid)


def tests_beside(path: Path) -> Path:
    """Return the file that may have further tests of a flow file: `NAME.test.yaml` beside `NAME.yaml`."""
    return path.parent / f"{path.stem}.test{path.suffix}"


def check_tests(
    tests: Sequence[FlowTest], flow: Flow[Any], diagnostics: Diagnostics, *, complete: bool = True
) -> tuple[FlowTest, ...]:
    """Return the tests of a flow that have no errors; add the errors of the others.

    A flow that is not `complete` lacks steps, so unknown names are not errors.
    """
    names: set[str] = set()
    valid: list[FlowTest] = []
    known = KnownNames(flow, diagnostics, complete=complete)
    for test in tests:
        before = len(diagnostics)
        if test.name in names:
            diagnostics.add(test.at("name"), f"a second test has the name {quoted(test.name)}", hint="rename it")
        names.add(test.name)
        if isinstance(test.given, int) and flow.sample_factory is None:
            diagnostics.add(test.at("given"), f"generate: flow {flow.name} has no samples", hint="list the values")
        if test.order == Order.KEY and flow.key is None:
            diagnostics.add(test.at("order"), f"order: key: flow {flow.name} has no key", hint="set key in the flow")
        _check_rules(test, known, diagnostics)
        _check_expectation(test.expected, known, diagnostics)
        if len(diagnostics) == before:
            valid.append(test)
    return tuple(valid)


def _check_rules(test: FlowTest, known: KnownNames, diagnostics: Diagnostics) -> None:
    known.check(test.node.get("when"), known.called, "service")
    for name, rules in (test.rules or {}).items():
        for rule in rules:
            _check_rule(rule, diagnostics, is_sink=name in known.sinks and name not in known.services)


def _check_rule(rule: StubRule, diagnostics: Diagnostics, *, is_sink: bool) -> None:
    actions = [name for name in ACTIONS if rule.has(name)]
    if len(actions) > 1:
        message = f"{quoted(actions[0])} and {quoted(actions[1])} exclude each other: remove one"
        diagnostics.add(rule.at(actions[1]), message)
    if not actions and not rule.has("delay"):
        expected = f"one of {', '.join((*ACTIONS, 'delay'))}"
        diagnostics.add(rule.node, f"the rule has no action: expected {expected}", expected=expected)
    if is_sink and actions and actions[0] in ("returns", "expression"):
        message = f"{actions[0]}: not allowed for a sink: use raises, hangs or delay"
        diagnostics.add(rule.at(actions[0]), message)
    try:
        check_times(rule.since, rule.until)
    except ValueError as error:
        diagnostics.add(rule.at("to"), str(error))
    if rule.raises is not None:
        _check_error(rule.raises, rule.at("raises"), diagnostics)


def _check_error(error: StubError, node: Node, diagnostics: Diagnostics) -> None:
    if error.status is not None:
        if error.has("retryable"):
            message = '"status" and "retryable" exclude each other: remove "retryable"'
            diagnostics.add(error.at("retryable"), message)
        return
    if error.has("retry_after"):
        diagnostics.add(error.at("retry_after"), "retry_after: only with status")
    if error.message is None and error.type is None:
        diagnostics.add(node, "the error is empty: expected a message, a type or a status")
    try:
        error.make("service")
    except Exception:
        message = f"type: {error.type} cannot be made from a message"
        diagnostics.add(error.at("type"), message, hint="use another class")


def _check_expectation(expected: Expectation, known: KnownNames, diagnostics: Diagnostics) -> None:
    if not expected.node.value:
        diagnostics.add(expected.node, "expect: expected at least one key, such as ok: 3")
    for name in ("calls", "peak_calls"):
        known.check(expected.node.get(name), known.called, "service")
    known.check(expected.node.get("delivered"), known.sinks, "sink")
    known.check_records(expected.node.get("failed"), FAILURE_FIELDS)
    known.check_records(expected.node.get("dead_letters"), LETTER_FIELDS)


class KnownNames:
    """The names in a flow. A flow that is not complete may have further ones, so no name is an error there."""

    def __init__(self, flow: Flow[Any], diagnostics: Diagnostics, *, complete: bool) -> None:
        self.services = sorted({service.name for service in flow.all_services})
        self.sinks = list(flow.all_sinks)
        self._failure_points = flow.failure_points
        self._has_steps = bool(flow.steps)
        self._complete = complete
        self._diagnostics = diagnostics

    @property
    def called(self) -> list[str]:
        """The services and sinks."""
        return [*self.services, *sorted(set(self.sinks) - set(self.services))]

    def check(self, node: Node | None, names: Sequence[str], noun: str) -> None:
        """Check that the keys of a mapping are names of services or sinks."""
        for key, _ in node.value if node is not None and node.kind == "mapping" and self._complete else ():
            if key.value not in names:
                hint = None if names else f"the flow has no {noun}"
                self._diagnostics.unknown(key, noun, names, hint=hint)

    def check_records(self, node: Node | None, fields: Iterable[str]) -> None:
        """Check the keys of records of failures, and that their steps are in the flow."""
        for item in node.value if node is not None and node.kind == "list" else ():
            for key, value in item.value if item.kind == "mapping" else ():
                if key.value not in fields:
                    self._diagnostics.unknown(key, "key", fields)
                elif key.value == "step" and self._complete and value.value not in self._failure_points:
                    hint = None if self._has_steps else "the flow has no steps"
                    self._diagnostics.unknown(value, "step", self._failure_points, hint=hint)
