"""The supervisor: who may start, workers that are kept going, and everything taken down in order."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.virtual import quiet, within
from penstock import Flow, from_iterable
from penstock.errors import FlowDefinitionError, ShuttingDown, TooManyRuns
from penstock.results import DiscardResults
from penstock.runtime import Event, Every, FlowStatistics, Phase, ShutdownReport, Supervisor
from penstock.sources import Emitter, Source, ticks
from penstock.testing import run

SLOW: Flow[Any] = Flow("slow").map_async(lambda value: asyncio.sleep(10, value))


def test_no_more_limited_runs_than_allowed() -> None:
    """The one too many is refused with the limit; other kinds are not limited; an ended one makes room."""

    async def main() -> None:
        supervisor = Supervisor(max_runs=2)
        runs = [supervisor.start(SLOW, from_iterable([1]), DiscardResults(), limited=True) for _ in range(2)]
        supervisor.start(SLOW, from_iterable([1]), DiscardResults())
        with pytest.raises(TooManyRuns, match="2 runs are open"):
            supervisor.start(SLOW, from_iterable([1]), DiscardResults(), limited=True)
        runs[0].abort()
        await runs[0].finished
        await supervisor.start(SLOW, from_iterable([1]), DiscardResults(), limited=True).finished
        await supervisor.shut_down(1)

    quiet(main())


def test_nothing_is_started_while_stopping() -> None:
    """From the signal on, a start is refused and its source is not touched."""

    async def main() -> None:
        supervisor = Supervisor()
        supervisor.signal(Event.SIGNAL)
        with pytest.raises(ShuttingDown):
            supervisor.start(SLOW, from_iterable([1]), DiscardResults())
        with pytest.raises(ShuttingDown):
            supervisor.check()

    quiet(main())


def test_shutting_down_drains_first() -> None:
    """What is in flight is finished within the grace, further input is not taken, and the report says so."""

    async def main() -> tuple[ShutdownReport, float]:
        supervisor = Supervisor()
        supervisor.start(SLOW, ticks(1), DiscardResults())
        await asyncio.sleep(3.5)
        report = await supervisor.shut_down(60)
        return report, asyncio.get_running_loop().time()

    report, seconds = quiet(main())
    assert (report.reasons, report.ok, report.cancelled, report.forced) == ({"draining": 1}, 4, 0, False)
    assert seconds == 13.0


def test_what_outlasts_the_grace_is_cancelled() -> None:
    """After the grace everything is aborted, and the report says that the stop was forced."""

    async def main() -> tuple[ShutdownReport, float, Phase]:
        supervisor = Supervisor()
        supervisor.start(SLOW, ticks(1), DiscardResults())
        await asyncio.sleep(3.5)
        report = await supervisor.shut_down(2)
        return report, asyncio.get_running_loop().time(), supervisor.phase

    report, seconds, phase = quiet(main())
    assert (report.reasons, report.ok, report.cancelled, report.forced) == ({"aborted": 1}, 0, 4, True)
    assert (seconds, phase) == (5.5, Phase.STOPPED)


def test_the_stop_goes_through_its_phases_once_and_says_so() -> None:
    """Serving, draining, aborting, stopped: one line each."""

    async def main() -> None:
        supervisor = Supervisor()
        supervisor.start(SLOW, from_iterable([1]), DiscardResults())
        await asyncio.sleep(1)
        await supervisor.shut_down(2)

    with capture_logs() as logs:
        run(within(1000, main()))

    assert [entry["phase"] for entry in logs if entry["event"] == "shutdown.phase"] == [
        "draining",
        "aborting",
        "stopped",
    ]


def test_a_report_adds_up_all_runs() -> None:
    """Runs that had ended before the stop are not in it."""

    async def main() -> ShutdownReport:
        supervisor = Supervisor()
        await supervisor.start(Flow("f"), from_iterable([1]), DiscardResults()).finished
        for count in (1, 2, 3):
            supervisor.start(SLOW, from_iterable(range(count)), DiscardResults())
        await asyncio.sleep(1)
        return await supervisor.shut_down(60)

    report = quiet(main())
    assert (report.runs, report.received, report.ok, report.reasons) == (3, 6, 6, {"completed": 3})


# Services


@pytest.mark.parametrize("way", ["shut_down", "forget"])
def test_services_stand_ready_between_runs(way: str) -> None:
    """The tasks that make calls serve run after run, and refer to none that is over; they end with the last user."""

    async def main() -> None:
        supervisor = Supervisor()
        flow = Flow("f").enrich(merge=lambda value, _: value, a=asyncio.sleep, b=asyncio.sleep)
        await supervisor.add(flow)
        ready: list[set[asyncio.Task[Any]]] = []
        for _ in range(2):
            started = supervisor.start(flow, from_iterable([1, 2, 3]), DiscardResults())
            part = weakref.ref(started)
            assert (await started.finished).ok == 3
            del started
            assert part() is None
            ready.append(asyncio.all_tasks() - {asyncio.current_task()})
        assert len(ready[0]) == 6
        assert ready[0] == ready[1]
        await (supervisor.shut_down(1) if way == "shut_down" else supervisor.remove(flow, []))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    gc.collect()
    gc.disable()
    try:
        quiet(main())
    finally:
        gc.enable()


# Workers


def worker(make_source: Any, seconds: float, **how: Any) -> tuple[Supervisor, list[dict[str, Any]], ShutdownReport]:
    """A worker that is left to itself for a while, then shut down."""

    async def main() -> tuple[Supervisor, ShutdownReport]:
        supervisor = Supervisor(rng=random.Random(1))
        supervisor.start_worker("A", Flow("f"), make_source, **how)
        await asyncio.sleep(seconds)
        report = await supervisor.shut_down(5)
        assert len(asyncio.all_tasks()) == 1
        return supervisor, report

    with capture_logs() as logs:
        supervisor, report = run(within(100_000, main()))
    return supervisor, list(logs), report


def test_a_worker_runs_once() -> None:
    """Without a schedule a run that completed is not repeated."""
    supervisor, _, _ = worker(lambda: from_iterable(range(3)), 1000)

    assert supervisor.flow_statistics["f"].ended == {("worker", "completed"): 1}


def test_a_worker_runs_again_every_so_often() -> None:
    """Every 10 s, over 95 s: ten times."""
    supervisor, _, _ = worker(lambda: from_iterable(range(3)), 95, schedule=Every(10))

    assert supervisor.flow_statistics["f"].ended == {("worker", "completed"): 10}


def broken() -> Any:
    yield 1
    raise ConnectionError("gone")


def no_source() -> Any:
    raise FlowDefinitionError("no such file")


@pytest.mark.parametrize(
    ("make_source", "error"),
    [(lambda: from_iterable(broken()), "the source iterable failed: gone"), (no_source, "no such file")],
    ids=["breaks", "cannot be made"],
)
def test_a_worker_that_breaks_is_started_again_with_backoff(make_source: Any, error: str) -> None:
    """Longer and longer waits, at most a minute; every restart is counted, and said with its reason."""
    supervisor, logs, _ = worker(make_source, 3600)
    restarts = [entry for entry in logs if entry["event"] == "worker.restart"]
    waits = [entry["restart_in"] for entry in restarts]

    assert supervisor.restarts == {("f", "A"): len(restarts)}
    assert {entry["error"] for entry in restarts} == {error}
    assert [entry["failures"] for entry in restarts] == list(range(1, len(restarts) + 1))
    assert waits[0] <= 1.0
    assert 30 < max(waits) <= 60
    assert len(restarts) < 300


def test_a_worker_s_name_is_taken_while_it_works() -> None:
    """A second one would put the first out of sight, and nobody would end it."""

    async def main() -> None:
        supervisor = Supervisor()
        supervisor.start_worker("A", Flow("f"), lambda: ticks(1))
        with pytest.raises(FlowDefinitionError, match="already runs a worker 'A'"):
            supervisor.start_worker("A", Flow("f"), lambda: ticks(1))
        await supervisor.shut_down(1)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    quiet(main())


def test_a_good_run_forgets_the_breaks_before_it() -> None:
    """After a run that completed the backoff starts anew."""
    sources = iter([broken(), broken(), [1], broken(), [1], *([[1]] * 1000)])
    _, logs, _ = worker(lambda: from_iterable(next(sources)), 100, schedule=Every(1))

    assert [entry["failures"] for entry in logs if entry["event"] == "worker.restart"] == [1, 2, 1]


def test_a_long_run_forgets_the_breaks_before_it() -> None:
    """A run that consumes from a broker breaks after hours; its next one need not wait for a minute."""

    class Broker(Source[int]):
        async def produce(self, emitter: Emitter[int]) -> None:
            await asyncio.sleep(7200)
            raise ConnectionError("gone")

    _, logs, _ = worker(Broker, 80_000)

    assert [entry["failures"] for entry in logs if entry["event"] == "worker.restart"] == [1] * 11


def test_a_worker_is_unavailable_while_its_runs_fail_or_its_connection_is_lost() -> None:
    """From the first failed run until a source has connected; then while it says that its connection is lost."""

    class Broker(Source[int]):
        async def produce(self, emitter: Emitter[int]) -> None:
            if not 40 < now() < 10_000:
                await asyncio.sleep(2)
                raise ConnectionError("down")
            emitter.report_connection(lambda: not 300 < now() < 400)
            await asyncio.sleep(1e9)

    def now() -> float:
        return asyncio.get_running_loop().time()

    async def main() -> dict[int, float]:
        supervisor = Supervisor(rng=random.Random(1))
        supervisor.start_worker("A", Flow("f"), Broker)
        seen: dict[int, float] = {}
        for second in range(0, 500, 5):
            await asyncio.sleep(second - now())
            seen[second] = supervisor.unavailable_workers()["f", "A"]
        await supervisor.stop_workers(Flow("f"))
        assert supervisor.unavailable_workers() == {}
        return seen

    seen = quiet(main())

    assert seen[0] == 0
    assert 20 < seen[35] <= 35
    assert (seen[200], seen[300]) == (0, 0)
    assert (seen[305], seen[395]) == (0, 90)
    assert seen[405] == 0


def test_a_worker_that_waits_is_no_reason_to_wait_for_it() -> None:
    """A stop ends a worker between two runs at once."""
    _, _, report = worker(lambda: from_iterable([1]), 5, schedule=Every(1e5))

    assert (report.runs, report.forced) == (0, False)


def test_a_worker_without_a_schedule_or_a_source_is_refused() -> None:
    """When it is described: it would never run, or break for ever."""

    async def main() -> None:
        work = Supervisor().start_worker
        with pytest.raises(FlowDefinitionError, match=r"did you mean Every\(60\)"):
            work("a", Flow("f"), lambda: from_iterable([1]), schedule=60)  # type: ignore[arg-type]  # the mistake
        with pytest.raises(FlowDefinitionError, match="a function that creates a source"):
            work("a", Flow("f"), from_iterable([1]))  # type: ignore[arg-type]  # the mistake

    run(main())
    with pytest.raises(FlowDefinitionError, match="got 'daily'"):
        Flow("f").worker("a", from_iterable([1]), "daily")  # type: ignore[arg-type]  # the mistake


def test_failures_of_the_store_are_counted_for_good() -> None:
    """A flow that is forgotten takes none of them along: what counts them must never fall."""
    supervisor = Supervisor()
    for name, failures in (("a", 2), ("b", 3)):
        supervisor.flow_statistics[name] = FlowStatistics(name)
        supervisor.flow_statistics[name].store_failures = failures
    supervisor.remove_counters("a")
    supervisor.remove_counters("a")
    assert supervisor.store_failures == 5


def test_a_step_before_the_stores_close_that_fails_is_logged() -> None:
    """The others are done all the same."""
    done: list[str] = []

    async def fails() -> None:
        raise ValueError("no way")

    async def works() -> None:
        done.append("works")

    async def main() -> None:
        supervisor = Supervisor()
        supervisor.before_close += [fails, works]
        await supervisor.shut_down(1)

    with capture_logs() as logs:
        run(main())
    assert done == ["works"]
    assert [each["error"] for each in logs if each["event"] == "shutdown.step_failed"] == ["no way"]
