"""What breaks, or hangs, while a run comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from reactivex import operators as ops
from structlog.testing import capture_logs

from laws.virtual import quiet, within
from penstock import Flow, from_async_iterable, from_iterable
from penstock.core.context import CLOSE_SECONDS
from penstock.core.operators import sync_operator
from penstock.deadletters import MemoryStore
from penstock.errors import StoreError
from penstock.results import DiscardResults
from penstock.runtime import ShutdownReport, Summary, Supervisor
from penstock.runtime.shutdown import STORE_SECONDS
from penstock.sources import Source
from penstock.sources.source import Emitter
from penstock.testing import run


def refuse(_: Any) -> Any:
    raise ValueError("no")


def test_a_source_that_breaks_while_its_run_is_taken_down_is_told() -> None:
    """The run ends as it was told to; that a file or a cursor could not be closed is in its log all the same."""

    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            raise OSError("the cursor cannot be closed")

    async def main() -> Summary:
        started = Flow("f").start(from_async_iterable(endless()), DiscardResults())
        await asyncio.sleep(1)
        started.abort()
        return await started.finished

    with capture_logs() as logs:
        summary = run(within(100, main()))
    assert (summary.reason, summary.error) == ("aborted", None)
    assert [entry["event"] for entry in logs] == ["source.failed", "run.ended"]
    assert "the cursor cannot be closed" in logs[0]["error"]


@pytest.mark.parametrize("aborted", [False, True])
def test_a_sink_that_breaks_at_the_end_keeps_no_run_from_it(aborted: bool) -> None:
    """The run has failed, unless it was aborted before; its error is told, and a shutdown does not wait for it."""

    class Torn(DiscardResults):
        def close(self) -> None:
            raise OSError("torn")

    async def main() -> tuple[Summary, ShutdownReport]:
        supervisor = Supervisor()
        started = supervisor.start(Flow("f").map_async(asyncio.sleep), from_iterable([1]), Torn())
        await asyncio.sleep(0.5)
        if aborted:
            started.abort()
        return await started.finished, await supervisor.shut_down(1)

    summary, report = quiet(main())
    assert (summary.reason, summary.error) == ("aborted" if aborted else "failed", "torn")
    assert report.runs == 0


def test_a_closing_that_hangs_is_given_up_and_named() -> None:
    """A dead disk under a source must not hold the run's end up for ever."""

    class Hanging(Source[int]):
        async def produce(self, emitter: Emitter[int]) -> None:
            emitter.on_close(asyncio.Event().wait)
            await emitter.send([1])

    async def main() -> float:
        await Flow("f").start(Hanging(), DiscardResults()).finished
        return asyncio.get_running_loop().time()

    with capture_logs() as logs:
        assert run(within(100, main())) == CLOSE_SECONDS
    (stuck,) = [entry["tasks"] for entry in logs if entry["event"] == "run.tasks_not_cancelled"]
    assert [name.rpartition(":")[2] for name in stuck] == ["closing"]


def test_what_breaks_behind_a_timed_operator_ends_the_run() -> None:
    """Its timer is the run's, and so is the error."""

    def bug(elements: list[Any]) -> None:
        raise KeyError("a bug")

    async def main() -> Summary:
        flow = Flow("f").operator(lambda source: source.pipe(ops.delay(0.1), sync_operator("own", bug)))
        return await flow.start(from_iterable([1]), DiscardResults()).finished

    summary = quiet(main())
    assert (summary.reason, summary.cancelled) == ("failed", 1)
    assert "a bug" in str(summary.error)


class Breaking(Source[int]):
    """Breaks while it closes."""

    async def produce(self, emitter: Emitter[int]) -> None:
        emitter.on_close(self.close)
        await emitter.send([1])

    async def close(self) -> None:
        raise OSError("cannot be closed")


class Torn(Source[int]):
    """Has something called at the end that breaks before there is anything to wait for."""

    async def produce(self, emitter: Emitter[int]) -> None:
        emitter._context.on_close(self.fail)
        await emitter.send([1])

    def fail(self) -> list[asyncio.Future[Any]]:
        raise OSError("cannot be closed")


class Late(Breaking):
    """Has to be cancelled while it closes, and breaks then."""

    async def close(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("cannot be closed")


def last_words() -> None:
    raise OSError("cannot be closed")


@pytest.mark.parametrize(
    ("flow", "source"),
    [
        (Flow[Any]("f"), Breaking()),
        (Flow[Any]("f"), Torn()),
        (Flow[Any]("f"), Late()),
        (Flow[Any]("f").operator(lambda source: source.pipe(ops.finally_action(last_words))), from_iterable([1])),
    ],
    ids=["a closing", "a call", "a late one", "a subscription"],
)
def test_nothing_that_breaks_at_the_end_keeps_a_run_from_it(flow: Flow[Any], source: Source[int]) -> None:
    """It is told, the accounts are closed, and a shutdown does not wait for the run for ever."""

    async def main() -> tuple[Summary, ShutdownReport]:
        supervisor = Supervisor()
        summary = await supervisor.start(flow, source, DiscardResults()).finished
        return summary, await supervisor.shut_down(1)

    summary, report = quiet(main())
    assert (summary.reason, summary.ok, summary.error) == ("failed", 1, "cannot be closed")
    assert (report.runs, report.forced) == (0, False)


@pytest.mark.parametrize("error", [StoreError("the disk is gone"), OSError("the disk is gone")])
def test_a_store_that_breaks_while_it_is_closed_costs_no_report(error: Exception) -> None:
    """Neither the summary of a run with a store of its own, nor the report of a stop."""

    class Stuck(MemoryStore):
        async def aclose(self) -> None:
            raise error

    async def main() -> tuple[Summary, ShutdownReport]:
        flow = Flow("f").map(refuse).dead_letters(Stuck())
        supervisor = Supervisor()
        await supervisor.start(flow, from_iterable([1]), DiscardResults()).finished
        return await flow.start(from_iterable([1]), DiscardResults()).finished, await supervisor.shut_down(1)

    with capture_logs() as logs:
        summary, report = run(within(100, main()))
    assert (summary.reason, summary.failed, report.forced) == ("completed", 1, False)
    assert [entry["error"] for entry in logs if entry["event"] == "store.close_failed"] == ["the disk is gone"] * 2


def test_a_store_that_hangs_while_it_is_closed_keeps_no_run() -> None:
    """A run that has a store of its own ends all the same."""

    class Hanging(MemoryStore):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    async def main() -> float:
        await Flow("f").map(refuse).dead_letters(Hanging()).start(from_iterable([1]), DiscardResults()).finished
        return asyncio.get_running_loop().time()

    assert quiet(main()) == STORE_SECONDS


def test_a_task_that_breaks_while_it_is_cancelled_is_told() -> None:
    """The run ends as it would have; that something else broke meanwhile is in its log."""

    class Breaking(Source[int]):
        async def produce(self, emitter: Emitter[int]) -> None:
            emitter._context.spawn(self.work(), "work")
            await emitter.send([1])

        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise KeyError("a bug")

    async def main() -> Summary:
        return await Flow("f").start(Breaking(), DiscardResults()).finished

    with capture_logs() as logs:
        summary = run(within(100, main()))
    assert (summary.reason, summary.ok) == ("completed", 1)
    assert ["a bug" in entry["error"] for entry in logs if entry["event"] == "run.late_error"] == [True]
