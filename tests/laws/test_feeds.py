"""Push sources: what happens to values when the buffer is full, and to the code that pushes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from reactivex import operators as ops
from reactivex.scheduler.eventloop import AsyncIOThreadSafeScheduler
from reactivex.subject import Subject
from structlog.testing import capture_logs

from laws.test_sources import Never, ends, quiet
from penstock import Flow, from_observable
from penstock.errors import BufferOverflow, PushSourceClosed, WrongThread
from penstock.results import DiscardResults
from penstock.runtime import Summary
from penstock.sources import PushSource
from penstock.testing import run
from waiting import HANG_SECONDS


def fed(overflow: str, values: int = 6, capacity: int = 3) -> tuple[list[int], Summary, PushSource[int]]:
    """A feed that is pushed into before its run starts, then run to its end."""

    async def main() -> tuple[list[int], Summary, PushSource[int]]:
        feed: PushSource[int] = PushSource(capacity, overflow)
        seen: list[int] = []
        for number in range(values):
            feed.push_nowait(number)
        feed.close()
        return seen, await ends(Flow("f").tap(seen.append), feed), feed

    return quiet(main())


def test_drop_oldest_keeps_the_newest() -> None:
    """The values that waited longest make room; they count as received, filtered and dropped."""
    seen, summary, feed = fed("drop_oldest")

    assert (seen, feed.dropped, summary.received, summary.filtered) == ([3, 4, 5], 3, 6, 3)


def test_what_is_dropped_is_in_the_log_of_its_run() -> None:
    """Of a run that dropped nothing, nothing is said."""

    async def main(values: int) -> Summary:
        feed: PushSource[int] = PushSource(3, "drop_newest")
        for number in range(values):
            feed.push_nowait(number)
        feed.close()
        return await Flow("f").start(feed, DiscardResults()).finished

    with capture_logs() as logs:
        run(main(5))
        run(main(3))
    assert [entry.get("dropped") for entry in logs] == [2, None]


def test_drop_newest_keeps_the_oldest() -> None:
    """The values that find no room are not taken; they count as received, filtered and dropped."""
    seen, summary, feed = fed("drop_newest")

    assert (seen, feed.dropped, summary.received, summary.filtered) == ([0, 1, 2], 3, 6, 3)


def test_fail_ends_the_run() -> None:
    """The run fails and says what may be done about it; what was buffered is finished, what came later dropped."""
    seen, summary, feed = fed("fail")

    assert (seen, summary.reason, summary.received, summary.filtered, feed.dropped) == ([0, 1, 2], "failed", 6, 3, 3)
    assert "drop_oldest" in str(BufferOverflow(3)) in str(summary.error)


def test_backpressure_makes_the_sender_wait() -> None:
    """`send` returns when there is room: at the rate at which the run takes values."""

    async def main() -> tuple[float, Summary]:
        feed: PushSource[int] = PushSource(2)
        slow = Flow("f").window(1).throttle(1).start(feed, DiscardResults())
        for number in range(10):
            await feed.push(number)
        sent = asyncio.get_running_loop().time()
        feed.close()
        return sent, await slow.finished

    seconds, summary = quiet(main())
    assert 5 <= seconds <= 9
    assert (summary.ok, summary.filtered) == (10, 0)


def test_pushing_into_a_feed_that_holds_back_is_refused() -> None:
    """The message names the way that waits."""

    async def main() -> None:
        with pytest.raises(TypeError, match=r"await source\.push"):
            PushSource[int](1).push_nowait(1)

    quiet(main())


@pytest.mark.parametrize("end", ["drain", "abort"])
def test_a_sender_does_not_wait_for_a_run_that_is_over(end: str) -> None:
    """`send` raises `PushSourceClosed`, also for a sender that waits already."""

    async def main() -> None:
        feed: PushSource[int] = PushSource(1)
        over = Flow("f").window(1).start(feed, Never())
        for number in range(2):
            await feed.push(number)
        waiting = asyncio.ensure_future(feed.push(2))
        await asyncio.sleep(1)
        getattr(over, end)()
        with pytest.raises(PushSourceClosed):
            await waiting
        over.abort()
        await over.finished
        with pytest.raises(PushSourceClosed):
            await feed.push(3)

    quiet(main())


@pytest.mark.parametrize("end", ["drained", "aborted", "no store"])
def test_a_run_that_never_came_to_its_feed_ends_it_too(end: str, tmp_path: Path) -> None:
    """Whoever sends is told, and what was sent is in the accounts."""

    async def main() -> tuple[Summary, int]:
        feed: PushSource[int] = PushSource(2)
        flow = Flow("f")
        if end == "no store":
            flow = flow.dead_letters(f"sqlite:///{tmp_path}/no/such.db")
        feeding = flow.start(feed, DiscardResults())
        if end == "drained":
            feeding.drain()
        elif end == "aborted":
            feeding.abort()
        await feed.push(0)
        await feed.push(1)
        with pytest.raises(PushSourceClosed):
            await feed.push(2)
        return await feeding.finished, feed.dropped

    with capture_logs():
        summary, dropped = asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))
    assert (summary.received, summary.filtered, dropped) == (2, 2, 2)


def test_a_feed_serves_one_run() -> None:
    """A second one is refused; it would wait for values that nobody can push any more."""

    async def main() -> Summary:
        feed: PushSource[int] = PushSource(1, "fail")
        feed.close()
        await Flow("f").start(feed, DiscardResults()).finished
        return await Flow("f").start(feed, DiscardResults()).finished

    summary = quiet(main())
    assert summary.reason == "failed"
    assert "make another one" in str(summary.error)


def test_a_feed_that_drops_can_be_run_in_order() -> None:
    """Elements are numbered when they are taken, so what was dropped leaves no gap to wait at."""

    async def main() -> Summary:
        feed: PushSource[int] = PushSource(2, "drop_oldest")
        for number in range(5):
            feed.push_nowait(number)
        feed.close()
        return await Flow("f").start(feed, DiscardResults(), ordered=True).finished

    summary = quiet(main())
    assert (summary.reason, summary.ok) == ("completed", 2)


def test_a_feed_needs_room() -> None:
    """A capacity of zero is refused, with the value."""
    with pytest.raises(ValueError, match="got 0"):
        PushSource(0)


def observed(on_the_loop: bool) -> Summary:
    """A run of an Observable whose five values come on a thread of their own."""

    async def main() -> Summary:
        values: Subject[int] = Subject()
        brought = ops.observe_on(AsyncIOThreadSafeScheduler(asyncio.get_running_loop()))
        source = from_observable(values.pipe(brought) if on_the_loop else values, capacity=10)
        observing = Flow("f").start(source, DiscardResults())
        await asyncio.sleep(0)  # in which it begins
        await asyncio.sleep(0)

        def send() -> None:
            for number in range(5):
                values.on_next(number)
            values.on_completed()

        await asyncio.to_thread(send)
        async with asyncio.timeout(HANG_SECONDS):
            return await observing.finished

    with capture_logs():
        return asyncio.run(main())


def test_values_of_another_thread_are_refused_and_said_how_to_bring_over() -> None:
    """The run fails and does not wait for what it cannot hear of; brought over, the values are as any."""
    refused = observed(on_the_loop=False)
    assert (refused.reason, refused.received) == ("failed", 0)
    assert "observe_on" in str(refused.error)
    assert (observed(on_the_loop=True).reason, observed(on_the_loop=True).ok) == ("completed", 5)


def test_a_send_from_another_thread_is_refused_where_it_is_made() -> None:
    """As a push is: the value would arrive whenever the loop happens to turn."""

    async def main() -> Summary:
        feed: PushSource[int] = PushSource(10, "backpressure")
        feeding = Flow("f").start(feed, DiscardResults())
        await asyncio.sleep(0.1)
        with pytest.raises(WrongThread, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(asyncio.run, feed.push(1))
        feed.close()
        return await feeding.finished

    assert quiet(main()).received == 0


def test_a_push_from_another_thread_is_refused_where_it_is_made() -> None:
    """Whoever pushes is told how to; a value that is handed to the loop arrives."""

    async def main() -> Summary:
        feed: PushSource[int] = PushSource(10, "drop_newest")
        feeding = Flow("f").start(feed, DiscardResults())
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(WrongThread, match="call_soon_threadsafe"):
            await asyncio.to_thread(feed.push_nowait, 1)
        await asyncio.to_thread(loop.call_soon_threadsafe, feed.push_nowait, 2)
        feed.close()
        return await feeding.finished

    with capture_logs():
        assert asyncio.run(main()).ok == 1


def test_what_is_pushed_after_the_run_changes_no_account_of_it() -> None:
    """It is counted by the feed alone."""

    async def main() -> tuple[int, int, int]:
        feed: PushSource[int] = PushSource(10, "drop_newest")
        feed.push_nowait(1)
        feed.close()
        feeding = Flow("f").start(feed, DiscardResults())
        summary = await feeding.finished
        feed.push_nowait(2)
        return summary.received, feeding.ledger.received, feed.dropped

    assert quiet(main()) == (1, 1, 1)


@pytest.mark.parametrize("overflow", ["backpressure", "drop_oldest"])
def test_what_comes_after_the_end_is_not_taken(overflow: str) -> None:
    """Whether the run has noticed the end or not: a sender is told, what is pushed is dropped and counted."""

    async def main() -> Summary:
        feed: PushSource[int] = PushSource(10, overflow)
        await feed.push(1)
        feed.close()
        if overflow == "backpressure":
            with pytest.raises(PushSourceClosed):
                await feed.push(2)
        else:
            feed.push_nowait(2)
        return await Flow("f").start(feed, DiscardResults()).finished

    summary = quiet(main())
    assert (summary.ok, summary.filtered) == (1, 0 if overflow == "backpressure" else 1)


def test_a_policy_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    """When the feed is made."""
    with pytest.raises(ValueError, match="expected one of backpressure, drop_oldest, drop_newest, fail, got 'drop'"):
        PushSource(1, "drop")
