"""Judges a test that was played: what is not as expected, and what may never be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.core.element import Outcome
from penstock.flowtests import compare as items
from penstock.flowtests.compare import differences
from penstock.flowtests.execute import FlowTestRun
from penstock.flowtests.rules import describe_rule, json_equal
from penstock.flowtests.tracing import format_seconds, format_value

CLOSE = 1e-6
"""Seconds by which times may differ and still be the same: summaries round to that."""

REASONS = 3
"""How many failures are told as the reason why other items did not come."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as expected, in one line or in several."""

    what: str
    """The name of the expectation, or of what is broken: `failed`, `calls`, `run`."""
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"{self.what}: {self.lines[0]}", *self.lines[1:]))


@dataclass(frozen=True, slots=True, eq=False)
class FlowTestResult:
    """A test that was played, and what was found."""

    played: FlowTestRun
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences


def verify(played: FlowTestRun) -> FlowTestResult:
    """Compare what came of a test with what it expects, and with what holds for every run."""
    found = (
        *(Difference(what, lines) for what, lines in _explained(played) if lines),
        *(Difference(what, (line,)) for what, line in (*_numbers(played), *_times(played), *_laws(played))),
    )
    return FlowTestResult(played, found)


def _explained(played: FlowTestRun) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The differences of lists; the first one that failures nobody expects may explain is followed by some of these."""
    failures = () if played.case.expected.failed is not None else _failures(played)
    for what, lines in _lists(played):
        if lines and what.startswith(("ok", "filtered", "delivered")):
            yield what, (*lines, *failures)
            failures = ()
        else:
            yield what, lines


def _failures(played: FlowTestRun) -> tuple[str, ...]:
    """Some of the items that failed: where, and why."""
    failed = items.results(played, ok=False)
    told = tuple(_failure(item.facts) for item in failed[:REASONS])
    more = len(failed) - len(told)
    return (*told, f"  and {more} more failed") if more else told


def _failure(facts: Mapping[str, Any]) -> str:
    which = f"element {facts['seq']}" if facts["key"] is None else f"key {format_value(facts['key'])}"
    return f"  failed at {facts['step']}: {facts['type']}: {facts['message']} ({which})"


def _lists(played: FlowTestRun) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Which items came."""
    expected = played.case.expected
    for what, wanted, came in (
        ("ok", expected.ok, items.results(played, ok=True)),
        ("failed", expected.failed, items.results(played, ok=False)),
        ("filtered", expected.filtered, items.elements(played, Outcome.FILTERED)),
        ("cancelled", expected.cancelled, items.elements(played, Outcome.CANCELLED)),
        ("dead_letters", expected.dead_letters, items.letters(played)),
    ):
        if wanted is not None:
            yield what, differences(wanted, came)
    for outlet, wanted in (expected.delivered or {}).items():
        yield f"delivered to {outlet}", differences(wanted, items.delivered(played, outlet))
    if expected.order is not None:
        order = items.order(played)
        if not json_equal(expected.order, order):
            yield "order", (f"expected {format_value(expected.order)}", f"     got {format_value(order)}")


def _numbers(played: FlowTestRun) -> Iterator[tuple[str, str]]:
    """How many there were."""
    expected, summary = played.case.expected, played.summary
    if expected.received is not None and expected.received != summary.received:
        yield "received", f"expected {expected.received}, got {summary.received}"
    for what, wanted, came in (
        ("calls", expected.calls, played.calls),
        ("peak_calls", expected.peak_calls, played.peak_calls),
    ):
        for name, bounds in (wanted or {}).items():
            if not bounds.contains(came[name]):
                yield what, f"of {name} expected {bounds}, got {came[name]}"
    if expected.in_flight is not None and not expected.in_flight.contains(played.in_flight):
        yield "in_flight", f"expected {expected.in_flight}, got {played.in_flight}"


def _times(played: FlowTestRun) -> Iterator[tuple[str, str]]:
    """How it ended, and when."""
    expected, summary = played.case.expected, played.summary
    reason = summary.reason if summary.error is None else f"{summary.reason}: {summary.error}"
    if expected.reason is not None and expected.reason != summary.reason:
        yield "reason", f"expected {expected.reason}, got {reason}"
    if expected.reason is None and summary.error is not None:
        yield "run", f"broke: {summary.error}"
    if expected.seconds is not None and abs(summary.seconds - expected.seconds) > CLOSE:
        yield "seconds", f"expected {format_seconds(expected.seconds)}, got {format_seconds(summary.seconds)}"
    if expected.max_duration is not None and summary.seconds > expected.max_duration + CLOSE:
        limit = format_seconds(expected.max_duration)
        yield "max_duration", f"expected at most {limit}, got {format_seconds(summary.seconds)}"


def _laws(played: FlowTestRun) -> Iterator[tuple[str, str]]:
    """What holds whatever is expected: nothing is lost or left, letters and failures agree, what is written comes."""
    summary = played.summary
    settled = summary.ok + summary.failed + summary.filtered + summary.cancelled
    if summary.received != settled:
        yield "run", f"received {summary.received}, but settled {settled}"
    failed = {item.facts["seq"] for item in items.results(played, ok=False)}
    kept = {letter.seq for letter in played.letters}
    if len(played.letters) != summary.failed or kept != failed:
        yield "run", f"{summary.failed} failed, but {len(played.letters)} dead letters are kept"
    for trouble in played.troubles:
        yield "run", trouble
    for name, part in played.unused:
        place = f"{part.rule.node.place}: " if part.rule.node.place.line else ""
        calls = played.calls[name]
        yield "when", f"{place}the rule of {name} ({describe_rule(part.rule)}) applied to none of its {calls} calls"
    for event in played.missed:
        yield "events", f"{event}: the run was over before, after {format_seconds(summary.seconds)}"
