"""Verify a test run: compare it with the expectations, and check subject holds for every run."""

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

TOLERANCE = 1e-6
"""Seconds by which equal times may differ: summaries are rounded to microseconds."""

MAX_LISTED_FAILURES = 3
"""How many failures are listed as possible reasons for missing items."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between a run and its expectations, in one line or several."""

    subject: str
    """The name of the expectation, or `run`, `when` or `events`."""
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"{self.subject}: {self.lines[0]}", *self.lines[1:]))


@dataclass(frozen=True, slots=True, eq=False)
class FlowTestResult:
    """The result of a test: its run, and the differences from the expectations."""

    run: FlowTestRun
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Return whether there are no differences."""
        return not self.differences


def verify(run: FlowTestRun) -> FlowTestResult:
    """Compare a run with the expectations of its test, and check what holds for every run."""
    found = (
        *(Difference(subject, lines) for subject, lines in _explained(run) if lines),
        *(Difference(subject, (line,)) for subject, line in (*_numbers(run), *_times(run), *_invariants(run))),
    )
    return FlowTestResult(run, found)


def _explained(run: FlowTestRun) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the differences of lists. The first one that failures may explain is followed by unexpected failures."""
    failures = () if run.case.expected.failed is not None else _failures(run)
    for subject, lines in _lists(run):
        if lines and subject.startswith(("ok", "filtered", "delivered")):
            yield subject, (*lines, *failures)
            failures = ()
        else:
            yield subject, lines


def _failures(run: FlowTestRun) -> tuple[str, ...]:
    """Describe the first failed items: where and why they failed."""
    failed = items.results(run, ok=False)
    listed = tuple(_failure(item.value) for item in failed[:MAX_LISTED_FAILURES])
    more = len(failed) - len(listed)
    return (*listed, f"  and {more} more failed") if more else listed


def _failure(record: Mapping[str, Any]) -> str:
    which = f"element {record['seq']}" if record["key"] is None else f"key {format_value(record['key'])}"
    return f"  failed at {record['step']}: {record['type']}: {record['message']} ({which})"


def _lists(run: FlowTestRun) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the differences of items."""
    expected = run.case.expected
    for subject, expected_items, actual in (
        ("ok", expected.ok, items.results(run, ok=True)),
        ("failed", expected.failed, items.results(run, ok=False)),
        ("filtered", expected.filtered, items.elements(run, Outcome.FILTERED)),
        ("cancelled", expected.cancelled, items.elements(run, Outcome.CANCELLED)),
        ("dead_letters", expected.dead_letters, items.letters(run)),
    ):
        if expected_items is not None:
            yield subject, differences(expected_items, actual)
    for sink, expected_items in (expected.delivered or {}).items():
        yield f"delivered to {sink}", differences(expected_items, items.delivered(run, sink))
    if expected.order is not None:
        order = items.order(run)
        if not json_equal(expected.order, order):
            yield "order", (f"expected {format_value(expected.order)}", f"     got {format_value(order)}")


def _numbers(run: FlowTestRun) -> Iterator[tuple[str, str]]:
    """Yield the differences of counts."""
    expected, summary = run.case.expected, run.summary
    if expected.received is not None and expected.received != summary.received:
        yield "received", f"expected {expected.received}, got {summary.received}"
    for subject, ranges, actual in (
        ("calls", expected.calls, run.calls),
        ("peak_calls", expected.peak_calls, run.peak_calls),
    ):
        for name, bounds in (ranges or {}).items():
            if not bounds.contains(actual[name]):
                yield subject, f"{name}: expected {bounds}, got {actual[name]}"
    if expected.in_flight is not None and not expected.in_flight.contains(run.in_flight):
        yield "in_flight", f"expected {expected.in_flight}, got {run.in_flight}"


def _times(run: FlowTestRun) -> Iterator[tuple[str, str]]:
    """Yield the differences of the end of the run: its reason and its time."""
    expected, summary = run.case.expected, run.summary
    reason = summary.reason if summary.error is None else f"{summary.reason}: {summary.error}"
    if expected.reason is not None and expected.reason != summary.reason:
        yield "reason", f"expected {expected.reason}, got {reason}"
    if expected.reason is None and summary.error is not None:
        yield "run", f"failed: {summary.error}"
    if expected.seconds is not None and abs(summary.seconds - expected.seconds) > TOLERANCE:
        yield "seconds", f"expected {format_seconds(expected.seconds)}, got {format_seconds(summary.seconds)}"
    if expected.max_duration is not None and summary.seconds > expected.max_duration + TOLERANCE:
        limit = format_seconds(expected.max_duration)
        yield "max_duration", f"expected at most {limit}, got {format_seconds(summary.seconds)}"


def _invariants(run: FlowTestRun) -> Iterator[tuple[str, str]]:
    """Yield violations of what holds for every run.

    No element is lost, no resource is left open, each failure has a dead letter, and all rules and events are used.
    """
    summary = run.summary
    settled = summary.ok + summary.failed + summary.filtered + summary.cancelled
    if summary.received != settled:
        yield "run", f"received {summary.received}, but settled {settled}"
    failed = {item.value["seq"] for item in items.results(run, ok=False)}
    stored = {letter.seq for letter in run.letters}
    if len(run.letters) != summary.failed or stored != failed:
        yield "run", f"{summary.failed} failed, but {len(run.letters)} dead letters were stored"
    for problem in run.problems:
        yield "run", problem
    for name, counter in run.unused:
        location = f"{counter.rule.node.location}: " if counter.rule.node.location.line else ""
        calls = run.calls[name]
        yield (
            "when",
            f"{location}the rule of {name} ({describe_rule(counter.rule)}) applied to none of its {calls} calls",
        )
    for event in run.missed:
        yield "events", f"{event}: the run ended earlier, after {format_seconds(summary.seconds)}"
