"""A run: its reasons, its store that goes down and comes back, and what a cancel finds half done."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reactivex import operators as ops
from structlog.testing import capture_logs

from laws.virtual import quiet, summary_of, within
from penstock import Flow, from_iterable
from penstock.core.context import RunContext
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.errors import ReaderDisconnected, RunError, StoreError
from penstock.results import DiscardResults, LineWriter
from penstock.runtime import FlowStatistics, Run, Summary
from penstock.sources import Source, ticks
from penstock.sources.source import Emitter
from penstock.testing import run


def refuse(_: Any) -> Any:
    raise ValueError("no")


class SlowStore(MemoryStore):
    """Commits take a while; what was begun goes on whatever its caller does."""

    def __init__(self, seconds: float, timeout: float = 10.0, breaks: bool = False) -> None:
        super().__init__()
        self.seconds = seconds
        self.timeout = timeout
        self.breaks = breaks

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        await asyncio.sleep(self.seconds)
        if self.breaks:
            raise StoreError("the disk is full")
        await super().add(letters)


async def write(_: bytes) -> None:
    """A reader that takes everything."""


# Reasons


async def completes() -> Summary:
    return await Flow("f").start(from_iterable([1, 2]), DiscardResults()).finished


async def drains() -> Summary:
    started = Flow("f").start(ticks(1), DiscardResults())
    await asyncio.sleep(1.5)
    started.drain()
    return await started.finished


async def stalls() -> Summary:
    started = Flow("f").start(ticks(1), DiscardResults())
    await asyncio.sleep(1.5)
    started.drain("stalled")
    return await started.finished


async def leaves() -> Summary:
    async def gone(_: bytes) -> None:
        raise ReaderDisconnected

    return await Flow("f").start(from_iterable([1, 2]), LineWriter(gone)).finished


async def aborts() -> Summary:
    started = Flow("f").throttle(0.1).start(from_iterable([1, 2]), DiscardResults())
    await asyncio.sleep(1)
    started.abort()
    return await started.finished


async def breaks() -> Summary:
    return await Flow("f").start(from_iterable(iter(lambda: 1 // 0, 1)), DiscardResults()).finished


@pytest.mark.parametrize(
    ("main", "reason", "ok", "cancelled"),
    [
        (completes, "completed", 2, 0),
        (drains, "draining", 2, 0),
        (stalls, "stalled", 2, 0),
        (leaves, "disconnected", 0, 2),
        (aborts, "aborted", 1, 1),
        (breaks, "failed", 0, 0),
    ],
)
def test_a_run_ends_with_its_reason(main: Any, reason: str, ok: int, cancelled: int) -> None:
    """Each way to end has its word, in the summary and in the one line of the log."""
    with capture_logs() as logs:
        summary = run(within(1000, main()))

    assert (summary.reason, summary.ok, summary.cancelled) == (reason, ok, cancelled)
    assert [entry["reason"] for entry in logs if entry["event"] == "run.ended"] == [reason]


def test_the_first_reason_stays() -> None:
    """An abort after an abort, or after the end, changes nothing."""

    async def main() -> Summary:
        started = Flow("f").start(ticks(1), DiscardResults())
        await asyncio.sleep(1)
        started.abort("stalled")
        started.abort()
        summary = await started.finished
        started.abort()
        started.drain()
        return summary

    assert quiet(main()).reason == "stalled"


def test_an_input_that_has_ended_cannot_be_drained() -> None:
    """A drain that comes when the source is done leaves the reason `completed`."""

    async def main() -> Summary:
        started = Flow("f").throttle(1).start(from_iterable(range(3)), DiscardResults())
        await asyncio.sleep(1.5)
        started.drain()
        return await started.finished

    assert quiet(main()).reason == "completed"


@pytest.mark.parametrize("how", ["drain", "abort"])
def test_a_run_may_be_stopped_before_it_began(how: str) -> None:
    """Stopped in the same breath in which it was started: it ends, and its source was not read."""

    def values() -> Any:
        raise AssertionError("read")
        yield

    async def main() -> Summary:
        started = Flow("f").start(from_iterable(values()), DiscardResults())
        getattr(started, how)()
        return await started.finished

    assert quiet(main()).received == 0


def test_cancelling_who_waits_does_not_cancel_the_run() -> None:
    """`finished` is shielded: the run goes on."""

    async def main() -> Summary:
        started = Flow("f").throttle(1).start(from_iterable(range(5)), DiscardResults())
        waiting = asyncio.ensure_future(asyncio.wait_for(started.finished, 1))
        with pytest.raises(TimeoutError):
            await waiting
        return await started.finished

    assert quiet(main()).ok == 5


def test_a_task_that_is_cancelled_from_outside_ends_the_run_as_failed() -> None:
    """Nobody else would notice that the writer is gone: the run must not wait for it."""

    async def main() -> Summary:
        started = Flow("f").start(ticks(1), LineWriter(write))
        await asyncio.sleep(1.5)
        (writer,) = [task for task in asyncio.all_tasks() if task.get_name().endswith(":writer")]
        writer.cancel()
        return await started.finished

    summary = quiet(main())
    assert summary.reason == "failed"
    assert "was cancelled from outside" in str(summary.error)


def test_a_timer_that_meets_a_broken_step_ends_the_run() -> None:
    """An error behind an asynchronous boundary is a fault of the flow, not a line in a log that nobody reads."""

    class Breaks(DiscardResults):
        def on_next(self, value: Any) -> None:
            raise KeyError("bug")

    async def main() -> Summary:
        return await Flow("f").throttle(1).start(from_iterable([1, 2]), Breaks()).finished

    assert quiet(main()).error == "'bug'"


# The store


def test_a_store_that_is_down_pauses_the_source_and_loses_nothing() -> None:
    """While letters cannot be stored, elements wait, unsettled; when the store is up again all are stored."""
    made: list[int] = []

    def values() -> Any:
        for number in range(50):
            made.append(number)
            yield number

    async def main() -> tuple[int, int, Summary, int, int]:
        store = MemoryStore(capacity=0)
        totals = FlowStatistics("f")
        flow = Flow("f").window(5).map(refuse).dead_letters(store)
        started = Run(flow.plan(), from_iterable(values()), DiscardResults(), statistics=totals)
        await asyncio.sleep(100)
        waiting, settled = len(made), started.ledger.settled["failed"]
        store._capacity = 100
        summary = await started.finished
        return waiting, settled, summary, totals.store_failures, store.statistics().counts["waiting"]

    with capture_logs() as logs:
        waiting, settled, summary, failures, letters = run(within(1000, main()))

    assert (waiting, settled) == (5, 0)
    assert (summary.failed, letters) == (50, 50)
    assert failures == sum(entry["event"] == "store.write_failed" for entry in logs) > 10


def test_a_store_that_cannot_be_opened_fails_the_run_before_it_reads() -> None:
    """No element is taken that could not be kept."""

    class Closed(MemoryStore):
        async def open(self) -> None:
            raise StoreError("no such folder")

    async def main() -> Summary:
        return await Flow("f").dead_letters(Closed()).start(from_iterable([1]), DiscardResults()).finished

    summary = quiet(main())
    assert (summary.reason, summary.error, summary.received) == ("failed", "no such folder", 0)


@pytest.mark.parametrize(
    ("store", "failed"),
    [(SlowStore(3), 4), (SlowStore(3, breaks=True), 0)],
    ids=["durable after all", "not durable"],
)
def test_what_is_cancelled_during_its_commit_failed_if_the_commit_was_durable(store: SlowStore, failed: int) -> None:
    """Letters and failures agree, whenever the cancel comes: the commit's own end decides. If it broke, that counts."""

    async def main() -> tuple[Summary, int, int]:
        started = Flow("f").map(refuse).dead_letters(store).start(from_iterable(range(4)), DiscardResults())
        await asyncio.sleep(1)
        started.abort()
        summary = await started.finished
        return summary, len((await store.page(DeadLetterQuery())).letters), started.statistics.store_failures

    summary, letters, broke = quiet(main())
    assert (summary.failed, summary.cancelled, letters) == (failed, 4 - failed, failed)
    assert broke == (0 if failed else 1)


def test_a_failed_element_with_its_letter_stays_failed_when_its_line_is_not_written() -> None:
    """The letter is durable, the reader stands still, the run is aborted: failed, not cancelled."""

    async def never(_: bytes) -> None:
        await asyncio.sleep(1e6)

    async def main() -> tuple[Summary, int]:
        store = MemoryStore()
        started = Flow("f").map(refuse).dead_letters(store).start(from_iterable(range(4)), LineWriter(never))
        await asyncio.sleep(1)
        started.abort()
        return await started.finished, store.statistics().counts["waiting"]

    summary, letters = quiet(main())
    assert (summary.failed, summary.cancelled, letters) == (4, 0, 4)


def test_an_abort_reaches_a_store_that_does_not_open() -> None:
    """A store that takes an hour to open does not hold up an abort."""

    class Slow(MemoryStore):
        async def open(self) -> None:
            await asyncio.sleep(3600)

    async def main() -> Summary:
        started = Flow("f").dead_letters(Slow()).start(from_iterable([1]), DiscardResults())
        await asyncio.sleep(1)
        started.abort()
        return await started.finished

    assert quiet(main()).seconds < 60


def test_whoever_waits_for_a_run_is_told_when_its_task_is_cancelled() -> None:
    """As at the end of an event loop: nobody waits for ever."""

    async def main() -> tuple[bool, bool]:
        started = Flow("f").map_async(asyncio.sleep).start(from_iterable([100]), DiscardResults())
        waiting = started.finished
        await asyncio.sleep(1)
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == f"run:{started.id}"]
        task.cancel()
        await asyncio.wait((waiting,))
        return waiting.cancelled(), started.finished.cancelled()

    assert quiet(main()) == (True, True)


def test_the_summary_outlives_the_event_loop() -> None:
    """It can be asked for when the loop is closed."""

    async def main() -> Run:
        started = Flow("f").start(from_iterable([1]), DiscardResults())
        await started.finished
        return started

    assert quiet(main()).finished.result().ok == 1


@pytest.mark.parametrize("aborted", [False, True], ids=["completed", "aborted"])
def test_a_run_that_is_over_is_freed_at_once(aborted: bool) -> None:
    """Nothing that a run was made of refers back to it: the garbage collector has nothing to look for."""

    async def main() -> list[object]:
        flow = Flow("f").enrich(merge=lambda value, _: value, a=refuse, b=asyncio.sleep).map_async(asyncio.sleep)
        started = flow.dead_letters(MemoryStore()).start(from_iterable(range(5)), LineWriter(write))
        parts = [weakref.ref(started), weakref.ref(started.context)]
        await asyncio.sleep(1.5)
        if aborted:
            started.abort()
        await started.finished
        del started
        return [part() for part in parts]

    gc.collect()
    gc.disable()
    try:
        assert quiet(main()) == [None, None]
    finally:
        gc.enable()


def test_a_source_outside_of_a_run_says_how_to_start_it() -> None:
    """Without a scope nothing starts."""
    from penstock.errors import NotInsideRun

    with pytest.raises(NotInsideRun, match=r"use flow\.run\(source\) or flow\.stream\(source\)"):
        from_iterable([1]).subscribe()
    with pytest.raises(NotInsideRun):
        RunContext.of(None, "a step")


def test_a_commit_that_does_not_end_is_said_with_the_time_that_it_had() -> None:
    """A store has its timeout, and the end of a run its own."""

    async def main() -> float:
        started = (
            Flow("f").map(refuse).dead_letters(SlowStore(1000, timeout=1)).start(from_iterable([1]), DiscardResults())
        )
        await asyncio.sleep(1)
        started.abort()
        return (await started.finished).seconds

    with capture_logs() as logs:
        assert run(within(100, main())) == 2
    assert [entry["waited"] for entry in logs if entry["event"] == "store.write_uncertain"] == [1]


def test_a_stream_says_why_its_run_could_not_begin(tmp_path: Path) -> None:
    """As one that broke in the middle does."""

    async def main() -> list[Any]:
        flow = Flow("f").dead_letters(f"sqlite:///{tmp_path}/nowhere/letters.db")
        return [result async for result in flow.stream(from_iterable([1]))]

    with capture_logs(), pytest.raises(RunError, match="there is no folder"):
        asyncio.run(main())


def test_who_leaves_a_stream_has_left() -> None:
    """The log and the accounts say so, as of any reader."""

    async def main() -> None:
        async with Flow("f").stream(from_iterable([1, 2])) as results:
            await anext(results)

    with capture_logs() as logs:
        run(main())
    assert [entry["reason"] for entry in logs if entry["event"] == "run.ended"] == ["disconnected"]


def test_a_reader_whose_connection_broke_has_left() -> None:
    """Sockets and aiohttp say it with an error of their own; that is no fault of the flow."""

    async def broken(_: bytes) -> None:
        raise ConnectionResetError("closing transport")

    async def main() -> Summary:
        return await Flow("f").start(from_iterable([1]), LineWriter(broken)).finished

    with capture_logs() as logs:
        summary = run(main())
    assert (summary.reason, summary.error) == ("disconnected", None)
    assert [entry["event"] for entry in logs] == ["run.ended"]


def test_only_waits_for_credits_are_backpressure() -> None:
    """A source that waits until its work is settled, to put a file away, has all the credits it wants."""

    class Careful(Source[int]):
        async def produce(self, emitter: Emitter[int]) -> None:
            await emitter.send([3])
            await emitter.settled()

    async def main() -> float:
        started = Flow("f").map_async(asyncio.sleep).start(Careful(), DiscardResults())
        await started.finished
        return started.window.wait_seconds

    assert quiet(main()) == 0


def test_a_factory_that_was_not_called_is_told_so() -> None:
    """It takes the stream for its function, and gives what is no stream."""
    summary = summary_of(Flow("f").operator(ops.map), [1])  # type: ignore[arg-type]  # that is the point
    assert (summary.reason, summary.error) == (
        "failed",
        "map: expected an operator that returns an Observable; is it called, with its parentheses?",
    )
