"""The law of leaving nothing behind, in memory: the collector does not see through elements."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from reactivex import operators as ops
from structlog.testing import capture_logs

from laws.plans import Plan, plans
from laws.playing import play
from penstock import Flow, from_iterable
from penstock.deadletters import MemoryStore
from penstock.results import DiscardResults
from penstock.sinks import DiscardSink
from penstock.sources import ndjson
from penstock.testing import run

law = settings(max_examples=100, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


def broken(value: Any) -> Any:
    raise ValueError("broken") from KeyError("the cause")


class Refusing(DiscardSink):
    """An outlet that takes nothing."""

    async def write(self, values: Any) -> Any:
        raise ValueError("nothing is taken")


@law
@given(plans())
def test_nothing_of_a_run_stays_in_memory(plan: Plan) -> None:
    """The collector does not see through elements, so what they refer to must not refer back, errors least of all."""
    over = weakref.ref(play(plan).run)
    gc.collect()

    assert over() is None


def broken_parts(value: int) -> Iterator[int]:
    yield value
    raise ValueError("no further parts") from KeyError("the cause")


async def long_lines() -> AsyncIterator[bytes]:
    yield b'1\n"' + b"x" * 1000 + b'"\n{oops\n'


@pytest.mark.parametrize(
    ("flow", "source", "failed"),
    [
        (Flow[Any]("f"), lambda: ndjson(long_lines(), limit=100), 2),
        (Flow[int]("f").flat_map(broken_parts), lambda: from_iterable([1, 2]), 2),
        (Flow[int]("f").enrich(a=broken, b=broken), lambda: from_iterable([1, 2]), 2),
        (Flow[int]("f").through(ops.map(broken)), lambda: from_iterable([1, 2]), 2),
        (Flow[int]("f").to(Refusing(), Refusing()), lambda: from_iterable([1, 2]), 2),
    ],
    ids=["source", "flat_map", "enrich", "through", "to"],
)
def test_no_error_keeps_its_run_in_memory(flow: Flow[Any], source: Any, failed: int) -> None:
    """An error refers by its traceback to all that was on the stack."""

    async def main() -> Any:
        started = flow.dead_letters(MemoryStore()).start(source(), DiscardResults())
        assert (await started.finished).failed == failed
        return weakref.ref(started)

    with capture_logs():
        over = run(main())
    gc.collect()
    assert over() is None
