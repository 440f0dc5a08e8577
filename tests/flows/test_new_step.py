"""A new step is one record with its operator: everything that a flow does with steps works with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from laws.virtual import results
from penstock import Flow, When
from penstock.cli.run.job import check_steps
from penstock.core.element import FILTERED, Element, Operator
from penstock.core.operators import sync_operator
from penstock.errors import FlowDefinitionError
from penstock.flowfile import dump
from penstock.graph import build_graph
from penstock.steps import MemoryUse, Step
from penstock.steps.step import check_count


@dataclass(frozen=True)
class Distinct(Step):
    """Filter values that are equal to one of the last values."""

    last: int

    kind = "distinct"
    is_filter = True
    is_resumable = False

    def __post_init__(self) -> None:
        check_count("last", self.last)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return lambda source: sync_operator(self.name, self._filter_repeated())(source)  # with new memory in each run

    def _filter_repeated(self) -> Callable[[list[Element[Any]]], None]:
        seen: OrderedDict[Any, None] = OrderedDict()

        def work(elements: list[Element[Any]]) -> None:
            for element in elements:
                if element.outcome is None and element.value in seen:
                    element.outcome = FILTERED
                elif element.outcome is None:
                    seen[element.value] = None
                    if len(seen) > self.last:
                        seen.popitem(last=False)

        return work

    def memory_bound(self, held: int) -> MemoryUse:
        return MemoryUse(self.name, 0, 0, f"the last {self.last} of {held} values", (self.name,))

    def summary(self) -> tuple[str, ...]:
        return (f"of the last {self.last}",)


FLOW = Flow("f").step(Distinct(2)).map(str)


def test_a_new_step_runs() -> None:
    """Each run has its own memory."""
    for _ in range(2):
        assert [result.value for result in results(FLOW, [1, 1, 2, 3, 1])] == ["1", "2", "3", "1"]


def test_a_new_step_checks_its_options() -> None:
    """When it is made, like all steps."""
    with pytest.raises(ValueError, match="last: expected an integer >= 1, got 0"):
        Distinct(0)


def test_a_new_step_has_a_unique_name() -> None:
    """The name of its kind, with a number for the second one."""
    assert [step.name for step in FLOW.step(Distinct(3)).steps] == ["distinct", "str", "distinct-2"]


def test_a_new_step_can_stand_on_a_branch() -> None:
    """Failures and times of it are counted, too."""
    flow = FLOW.route(big=When(lambda value: value > "5", lambda branch: branch.step(Distinct(1))))
    assert flow.failure_points == ("source", "decode", "distinct", "str", "route", "distinct-2", "encode")
    assert flow.timed_steps == ("decode", "distinct", "str", "route", "distinct-2", "encode")


def test_the_graph_shows_a_new_step() -> None:
    """With its kind, its summary, and what it filters."""
    graph = build_graph(FLOW)
    (node,) = [node for node in graph.nodes if node.name == "distinct"]
    assert (node.caption, node.details) == ("distinct", ("of the last 2",))
    assert (node.id, "filtered") in {(edge.start, edge.end) for edge in graph.edges}


def test_the_memory_bound_contains_a_new_step() -> None:
    """It says what the step holds."""
    (use,) = [use for use in FLOW.memory_bound.parts if use.step == "distinct"]
    assert use.why == "the last 2 of 256 values"
    assert FLOW.memory_bound.open == ("distinct",)


def test_a_new_step_that_remembers_cannot_be_resumed() -> None:
    """A checkpoint does not contain its memory."""
    with pytest.raises(FlowDefinitionError, match="step distinct of flow f keeps state in memory"):
        check_steps(FLOW)


def test_a_new_step_without_an_adapter_is_not_dumped() -> None:
    """Its syntax in flow files is the second file to write."""
    with pytest.raises(FlowDefinitionError, match="step distinct: flow files have no step 'distinct'"):
        dump(FLOW)
