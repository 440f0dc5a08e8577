"""What is special for `to`: outlets, shared by runs, and the values that they take or refuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.virtual import quiet, timers, within
from penstock import Flow, Otherwise, from_async_iterable, from_iterable, steps
from penstock.core.context import CANCEL_SECONDS
from penstock.errors import FlowDefinitionError, ReaderDisconnected
from penstock.results import DiscardResults, Result
from penstock.runtime import Run, Summary
from penstock.sinks import FileSink, SharedSink, Sink
from penstock.sinks.shared import _OPEN_SINKS, CANCEL_GRACE
from penstock.testing import run


class Shelf:
    """An outlet that keeps what it takes, and notes what it was asked for and when."""

    def __init__(self, name: str = "", *, seconds: float = 0.0, refuse: Callable[[Any], object] | None = None) -> None:
        self.name = name
        self.calls: list[str] = []
        self.writes: list[list[Any]] = []
        self.times: list[tuple[float, float]] = []
        self.is_open = False
        self.seconds = seconds
        self._refuse = refuse

    @property
    def kept(self) -> list[Any]:
        return [value for values in self.writes for value in values]

    async def open(self) -> None:
        self.calls.append("open")
        self.is_open = True

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        assert self.is_open
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(self.seconds)
        self.times.append((began, asyncio.get_running_loop().time()))
        refused = [self._refuse is not None and bool(self._refuse(value)) for value in values]
        self.writes.append([value for value, no in zip(values, refused, strict=True) if not no])
        return [ValueError(f"no {value}") if no else None for value, no in zip(values, refused, strict=True)]

    async def aclose(self) -> None:
        self.calls.append("close")
        self.is_open = False


def flow_of(*outlets: Sink, timeout: float = 30.0, name: str = "to", window: int = 256) -> Flow[Any]:
    """A flow whose only step is `to`."""
    return Flow[Any]("f", elements=window).to(*outlets, timeout=timeout, name=name)


async def gathered(flow: Flow[Any], values: Any) -> dict[int, Result[Any]]:
    return {result.seq: result async for result in flow.stream(from_iterable(values))}


async def slept(seconds: float, values: Any) -> Any:
    for value in values:
        yield value
        await asyncio.sleep(seconds)


def loudly(work: Any) -> tuple[Any, list[Any]]:
    """What a coroutine gives in virtual time, and what was logged."""
    with capture_logs() as logs:
        return run(within(10_000, work)), list(logs)


def test_every_value_reaches_every_outlet_and_goes_on_unchanged() -> None:
    """Fan-out: each outlet takes all values, in order; the results are the values."""
    first, second = Shelf(), Shelf(seconds=1)
    came = quiet(gathered(flow_of(first, second), range(600)))

    assert first.kept == second.kept == list(range(600))
    assert [result.value for result in came.values()] == list(range(600))


def test_a_refused_value_fails_its_element_alone() -> None:
    """The element fails at the step with the outlet's error; the others are taken and go on."""
    shelf = Shelf(refuse=lambda value: value == 2)
    came = quiet(gathered(flow_of(shelf, name="shelf"), range(4)))

    assert shelf.kept == [0, 1, 3]
    assert [seq for seq, result in came.items() if not result.ok] == [2]
    assert (came[2].failure.step, came[2].failure.type, came[2].failure.message) == ("shelf", "ValueError", "no 2")


def test_an_outlet_with_a_name_is_the_step_of_its_failures() -> None:
    """Of several outlets the first that refused gives the reason; what another took stays taken."""
    outlets = Shelf(), Shelf("two", refuse=lambda value: value > 1), Shelf("three", refuse=lambda value: value > 0)
    came = quiet(gathered(flow_of(*outlets), range(3)))

    assert [None if result.ok else result.failure.step for result in came.values()] == [None, "three", "two"]
    assert [outlet.kept for outlet in outlets] == [[0, 1, 2], [0, 1], [0]]


def test_a_write_that_raises_fails_all_its_values_and_no_others() -> None:
    """The next write goes through."""

    class Shaky(Shelf):
        async def write(self, values: Sequence[Any]) -> Any:
            if 0 in values:
                raise OSError("disk full")
            return await super().write(values)

    shelf = Shaky()
    came = quiet(gathered(flow_of(shelf, window=3), range(6)))

    assert {seq: None if result.ok else result.failure.message for seq, result in came.items()} == {
        0: "disk full", 1: "disk full", 2: "disk full", 3: None, 4: None, 5: None
    }  # fmt: skip
    assert shelf.kept == [3, 4, 5]


def test_an_answer_of_the_wrong_length_fails_its_values() -> None:
    """Nobody can say which value it means; None means that all were taken."""

    class Mumbling(Shelf):
        async def write(self, values: Sequence[Any]) -> Any:
            return [None] if len(values) > 1 else None

    came = quiet(gathered(flow_of(Mumbling("m"), window=2), range(3)))

    assert [None if result.ok else result.failure.type for result in came.values()] == [
        "InvalidCallResult",
        "InvalidCallResult",
        None,
    ]


def test_values_that_come_during_a_write_go_out_in_one() -> None:
    """A value each 0.1 s, writes of a second: the first alone, then all that gathered."""
    shelf = Shelf(seconds=1)

    async def main() -> None:
        await flow_of(shelf).start(from_async_iterable(slept(0.1001, range(25))), DiscardResults()).finished

    quiet(main())
    assert [len(values) for values in shelf.writes] == [1, 9, 10, 5]


def collected(total: int, window: int, gap: float, *shelves: Shelf) -> Summary:
    """Send numbers, one each `gap` seconds, to sinks with `max_values` 10 and `max_wait` 5 s."""
    for shelf in shelves:
        shelf.max_values, shelf.max_wait = 10, 5.0  # type: ignore[attr-defined]

    async def numbers() -> Any:
        for number in range(total):
            await asyncio.sleep(gap)
            yield number

    source = from_async_iterable(numbers()) if gap else from_iterable(range(total))
    return run(Flow("collect").window(window).to(*shelves).run(source))


def test_values_are_collected_for_a_sink_that_asks_for_it() -> None:
    """Until there are `max_values`, the first has waited `max_wait` seconds, or the input ends."""
    shelf = Shelf()
    assert collected(23, 100, 0, shelf).ok == 23
    assert [len(values) for values in shelf.writes] == [10, 10, 3]
    slow = Shelf()
    assert collected(8, 100, 2.0, slow).ok == 8
    assert slow.writes == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [began for began, _ in slow.times] == [7.0, 13.0, 16.0]


def test_a_full_window_is_not_collected_any_longer() -> None:
    """No more elements can come before these are settled."""
    shelf, other = Shelf(), Shelf()
    assert collected(12, 4, 0, shelf, other).ok == 12
    assert shelf.writes == other.writes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert shelf.times[-1][1] == 0.0


def test_an_outlet_lives_as_long_as_runs_use_it() -> None:
    """Opened at the first value, by one of three runs; closed after the last; opened again for the next."""
    shelf = Shelf(seconds=1)

    async def main() -> None:
        flow = flow_of(shelf)
        idle = flow.start(from_async_iterable(slept(30, ["late"])), DiscardResults())
        await asyncio.sleep(0)
        runs = [flow.start(from_iterable(range(5)), DiscardResults()) for _ in range(2)]
        await asyncio.gather(*(run.finished for run in runs))
        assert shelf.calls == ["open"]
        await idle.finished
        assert shelf.calls == ["open", "close"]
        await flow.start(from_iterable([]), DiscardResults()).finished
        assert shelf.calls == ["open", "close"]
        await flow.start(from_iterable([1]), DiscardResults()).finished

    quiet(main())
    assert shelf.calls == ["open", "close"] * 2
    assert id(shelf) not in _OPEN_SINKS


def test_runs_write_one_after_the_other_in_turn() -> None:
    """Two steps of two flows with the same outlet: no write begins before the one before it has ended."""
    shelf = Shelf(seconds=1)

    async def main() -> None:
        runs = [flow_of(shelf, window=2).start(from_iterable([name] * 6), DiscardResults()) for name in "ab"]
        await asyncio.gather(*(run.finished for run in runs))

    quiet(main())
    assert [values[0] for values in shelf.writes] == ["a", "b"] * 3
    assert all(before[1] <= after[0] for before, after in zip(shelf.times, shelf.times[1:], strict=False))


class Locked(Shelf):
    """An outlet that cannot be opened before its time."""

    def __init__(self, until: float, seconds: float = 0.5) -> None:
        super().__init__("locked")
        self.until = until
        self.tries: list[float] = []
        self._takes = seconds

    async def open(self) -> None:
        self.tries.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._takes)
        if self.tries[-1] < self.until:
            raise PermissionError("locked")
        await super().open()


def test_values_for_an_outlet_that_cannot_be_opened_fail_and_later_ones_try_again() -> None:
    """Each attempt fails the values that wait for it, after a backoff, and is logged; then it works again."""
    shelf = Locked(until=20)

    async def main() -> dict[int, Result[Any]]:
        source = from_async_iterable(slept(1, range(40)))
        return {result.seq: result async for result in flow_of(shelf).stream(source)}

    came, logs = loudly(main())
    failed = [result.failure for result in came.values() if not result.ok]

    assert {(failure.step, failure.type, failure.message, failure.cause) for failure in failed} == {
        ("locked", "SinkUnavailable", "locked could not be opened: locked", "PermissionError: locked")
    }
    assert shelf.kept == [result.value for result in came.values() if result.ok] != []
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["sink.open_failed"] * (
        len(shelf.tries) - 1
    )
    assert all(after - before >= 0.5 for before, after in zip(shelf.tries, shelf.tries[1:], strict=False))


def test_runs_that_wait_together_share_an_attempt_to_open() -> None:
    """Ten runs at an outlet that takes a second to fail: all know after a second, and it was tried once."""
    shelf = Locked(until=1e9, seconds=1)

    async def main() -> tuple[float, list[Summary]]:
        flow = flow_of(shelf)
        runs = [flow.start(from_iterable([1]), DiscardResults()) for _ in range(10)]
        summaries = await asyncio.gather(*(run.finished for run in runs))
        return asyncio.get_running_loop().time(), summaries

    seconds, summaries = quiet(main())
    assert (seconds, len(shelf.tries), {summary.failed for summary in summaries}) == (1, 1, {1})


def test_an_outlet_that_stays_locked_is_tried_less_and_less_often() -> None:
    """A minute of values, ten a second, at an outlet that refuses at once: they wait up to 5 s for the next attempt."""
    shelf = Locked(until=1e9, seconds=0)

    async def main() -> Summary:
        return await flow_of(shelf).start(from_async_iterable(slept(0.1, range(600))), DiscardResults()).finished

    assert quiet(main()).failed == 600
    assert 10 < len(shelf.tries) < 120


@pytest.mark.parametrize("call", ["open", "write"])
def test_a_call_that_hangs_is_cancelled_after_its_timeout(call: str) -> None:
    """Its values fail as timed out, and the next ones are tried."""

    class Hanging(Shelf):
        hung = False

        async def _hang(self) -> None:
            if not self.hung:
                self.hung = True
                await asyncio.sleep(1e6)

        async def open(self) -> None:
            if call == "open":
                await self._hang()
            await super().open()

        async def write(self, values: Sequence[Any]) -> Any:
            await self._hang()
            return await super().write(values)

    shelf = Hanging("h")
    came = quiet(gathered(flow_of(shelf, timeout=3, window=1), range(3)))

    assert "h did not respond within 3 s" in came[0].failure.message
    assert shelf.kept == [1, 2]


class Deaf(Shelf):
    """An outlet whose calls swallow their cancelling and go on for as long as they take."""

    def __init__(self, *, write: float = 0.0, close: float = 0.0) -> None:
        super().__init__("deaf")
        self.under_way = 0
        self.most = 0
        self.write_takes = write
        self.close_takes = close

    async def _take(self, seconds: float) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        until = asyncio.get_running_loop().time() + seconds
        while (now := asyncio.get_running_loop().time()) < until:
            try:
                await asyncio.sleep(until - now)
            except asyncio.CancelledError:
                continue
        self.under_way -= 1

    async def write(self, values: Sequence[Any]) -> Any:
        await self._take(self.write_takes)
        return await super().write(values)

    async def aclose(self) -> None:
        await self._take(self.close_takes)
        await super().aclose()


def test_an_outlet_that_does_not_hear_its_cancelling_is_not_called_twice_at_once() -> None:
    """Values fail by their timeout meanwhile, the log says so; when the call has ended, the outlet is used again."""
    shelf = Deaf(write=10)

    async def main() -> dict[int, Result[Any]]:
        flow = flow_of(shelf, timeout=2, window=1)
        return {result.seq: result async for result in flow.stream(from_async_iterable(slept(2, range(8))))}

    came, logs = loudly(main())

    assert shelf.most == 1
    assert [result.ok for result in came.values()][:3] == [False, False, False]
    assert all(result.ok or result.failure.type == "CallTimeout" for result in came.values())
    assert {entry["event"] for entry in logs if entry["log_level"] == "error"} == {"sink.call_not_cancelled"}


def test_an_outlet_whose_call_was_given_up_is_closed_when_that_ends_and_serves_the_next_run() -> None:
    """A disk that hung for a while: its file is not kept open and locked until the process ends."""
    shelf = Deaf(write=60)

    async def main() -> list[int]:
        flow = flow_of(shelf, timeout=2)
        hung = await flow.start(from_iterable([1]), DiscardResults()).finished
        assert id(shelf) in _OPEN_SINKS
        await asyncio.sleep(100)
        assert (shelf.calls, id(shelf) in _OPEN_SINKS) == (["open", "close"], False)
        shelf.write_takes = 1
        return [summary.ok for summary in (hung, await flow.start(from_iterable([2]), DiscardResults()).finished)]

    assert loudly(main())[0] == [0, 1]
    assert shelf.calls == ["open", "close"] * 2


@pytest.mark.parametrize("after", [5, 30, 57, 59, 62, 100])
def test_a_run_that_comes_while_a_call_was_given_up_finds_the_outlet_open_once(after: float) -> None:
    """Whether that call is still under way, or the outlet is being closed, or was: it is opened only when closed."""
    shelf = Deaf(write=60, close=3)

    async def main() -> Summary:
        await flow_of(shelf, timeout=2).start(from_iterable([1]), DiscardResults()).finished
        await asyncio.sleep(after - asyncio.get_running_loop().time())
        shelf.write_takes = 1
        found = await flow_of(shelf, timeout=90).start(from_iterable([2]), DiscardResults()).finished
        await asyncio.sleep(100)
        return found

    assert loudly(main())[0].ok == 1
    assert shelf.calls in (["open", "close"], ["open", "close"] * 2)
    assert (shelf.most, shelf.is_open, id(shelf) in _OPEN_SINKS) == (1, False, False)


def test_an_outlet_that_opens_after_its_call_was_given_up_is_open_once() -> None:
    """The next values find it open; it is closed in the end."""

    class Slow(Deaf):
        async def open(self) -> None:
            await self._take(10)
            await super().open()

    shelf = Slow()

    async def main() -> dict[int, Result[Any]]:
        flow = flow_of(shelf, timeout=8, window=1)
        return {result.seq: result async for result in flow.stream(from_async_iterable(slept(1, range(3))))}

    came, _ = loudly(main())
    assert [result.ok for result in came.values()] == [False, True, True]
    assert shelf.calls == ["open", "close"]


def test_a_call_that_ends_well_while_it_is_cancelled_counts() -> None:
    """What an outlet took at the last moment is taken: the elements are ok."""
    shelf = Deaf(write=2.5)
    came = quiet(gathered(flow_of(shelf, timeout=2), range(3)))

    assert [result.ok for result in came.values()] == [True] * 3


@pytest.mark.parametrize("shelf", [Shelf(seconds=1e6), Deaf(write=60), Deaf(close=60)], ids=["hangs", "deaf", "closes"])
def test_an_abort_ends_a_delivery_within_bounds_and_leaves_nothing(shelf: Shelf) -> None:
    """The write is cancelled and the outlet closed; one that hears neither is given up, and the log says so."""

    async def main() -> tuple[Summary, list[str], int]:
        before = timers()
        source = from_async_iterable(slept(0.1, range(1000)))
        aborted: Run = flow_of(shelf, timeout=1e5).start(source, DiscardResults())
        await asyncio.sleep(1)
        aborted.abort()
        summary = await aborted.finished
        tasks = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}]
        await asyncio.sleep(100)  # what was given up comes to its end, and changes nothing any more
        return summary, tasks, len(set(timers()) - set(before))

    (summary, tasks, left), logs = loudly(main())
    errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]

    assert summary.received == summary.ok + summary.cancelled
    assert left == 0
    if isinstance(shelf, Deaf):
        assert summary.seconds <= 1 + CANCEL_SECONDS + CANCEL_GRACE
        assert tasks == ["sink:deaf"]
        assert set(errors) >= {"sink.call_not_cancelled"}
    else:
        assert (summary.seconds, tasks, errors, shelf.is_open) == (1, [], [], False)
        assert id(shelf) not in _OPEN_SINKS


def test_a_run_that_leaves_does_not_close_the_outlet_of_another() -> None:
    """An abort beside a run that goes on: it waits for nothing, and that one's values are all taken."""
    shelf = Shelf(seconds=1)

    async def main() -> Summary:
        flow = flow_of(shelf, window=3)
        staying = flow.start(from_iterable(range(30)), DiscardResults())
        leaving = flow.start(from_iterable("x" * 30), DiscardResults())
        await asyncio.sleep(2.5)
        leaving.abort()
        assert (await leaving.finished).seconds == 2.5
        return await staying.finished

    assert quiet(main()).ok == 30
    assert [value for value in shelf.kept if value != "x"] == list(range(30))
    assert shelf.calls == ["open", "close"]


def test_a_run_that_comes_while_the_outlet_is_about_to_be_closed_keeps_it_open() -> None:
    """The last run's write is slow to be cancelled; meanwhile another run begins: the outlet stays open for it."""
    shelf = Deaf(write=1.5)

    async def main() -> Summary:
        leaving = flow_of(shelf).start(from_iterable([1]), DiscardResults())
        await asyncio.sleep(1)
        leaving.abort()
        await asyncio.sleep(0.2)
        return await flow_of(shelf).start(from_iterable([2]), DiscardResults()).finished

    assert quiet(main()).ok == 1
    assert shelf.calls == ["open", "close"]


def test_an_outlet_that_opened_while_its_run_was_cancelled_is_closed() -> None:
    """Opening was quicker than the cancelling: nothing is left open."""

    class Quick(Shelf):
        async def open(self) -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await super().open()

    shelf = Quick()

    async def main() -> None:
        aborted = flow_of(shelf).start(from_iterable([1]), DiscardResults())
        await asyncio.sleep(1)
        aborted.abort()
        await aborted.finished

    quiet(main())
    assert shelf.calls == ["open", "close"]


def test_a_close_that_raises_is_logged() -> None:
    """Every value was taken, so the run is completed; that the end went wrong is said."""

    class Torn(Shelf):
        async def aclose(self) -> None:
            raise OSError("torn")

    async def main() -> Summary:
        return await flow_of(Torn("t")).start(from_iterable([1]), DiscardResults()).finished

    summary, logs = loudly(main())
    said = [entry for entry in logs if entry["log_level"] == "error"]

    assert (summary.reason, summary.ok) == ("completed", 1)
    assert [(entry["event"], entry["sink"], entry["error"]) for entry in said] == [("sink.close_failed", "t", "torn")]


def test_a_write_that_cancels_itself_fails_its_values() -> None:
    """What it waited for was cancelled, nobody else: a failure like any other."""

    class Odd(Shelf):
        async def write(self, values: Sequence[Any]) -> Any:
            raise asyncio.CancelledError

    came = quiet(gathered(flow_of(Odd()), [1]))

    assert came[0].failure.type == "CallCancelled"


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(0, 20), max_size=30),
    refuses=st.lists(st.sets(st.integers(0, 20)), min_size=1, max_size=3),
    seconds=st.lists(st.sampled_from((0.0, 0.3, 1.0)), min_size=3, max_size=3),
    runs=st.integers(1, 3),
    window=st.integers(1, 8),
    at=st.none() | st.sampled_from((0.0, 0.3, 1.2, 3.0)),
)
def test_what_goes_on_was_taken_by_every_outlet_once(
    values: list[int],
    refuses: list[set[int]],
    seconds: list[float],
    runs: int,
    window: int,
    at: float | None,
) -> None:
    """An element is ok when all outlets took its value, failed when one did not; all outlets are closed in the end."""
    shelves = [
        Shelf(seconds=pause, refuse=lambda value, no=no: value[1] in no)
        for pause, no in zip(seconds, refuses, strict=False)
    ]

    async def one(number: int) -> list[Result[Any]]:
        source = from_async_iterable(slept(0.1, [(number, value, place) for place, value in enumerate(values)]))
        return [result async for result in flow_of(*shelves, window=window).stream(source)]

    async def main() -> list[Result[Any]]:
        playing = [asyncio.create_task(one(number)) for number in range(runs)]
        if at is not None:
            await asyncio.sleep(at)
            playing[-1].cancel()
        ended = await asyncio.gather(*playing, return_exceptions=True)
        return [result for results in ended if isinstance(results, list) for result in results]

    came = quiet(main())
    refused = set().union(*refuses)

    assert all(result.value[1] not in refused for result in came if result.ok)
    if at is None:
        assert sum(result.ok for result in came) == runs * sum(value not in refused for value in values)
    for shelf in shelves:
        assert {result.value for result in came if result.ok} <= set(shelf.kept)
        assert len(shelf.kept) == len(set(shelf.kept))
        assert not shelf.is_open
        assert shelf.calls in ([], ["open", "close"])


def test_an_outlet_belongs_to_one_event_loop_at_a_time() -> None:
    """Used by a second loop while the first one runs it is refused; afterwards it is not."""
    shelf = Shelf("s")
    said: list[str] = []

    async def use() -> None:
        try:
            await SharedSink.of(shelf).release()
        except RuntimeError as error:
            said.append(str(error))

    async def main() -> None:
        SharedSink.of(shelf)
        other = threading.Thread(target=lambda: asyncio.run(use()))
        other.start()
        other.join()

    asyncio.run(main())
    asyncio.run(use())
    assert said == ["sink s is in use by another event loop; create one for each loop"]


def test_no_outlet_and_no_time_are_refused() -> None:
    """Said when the step is made."""
    with pytest.raises(FlowDefinitionError, match="at least one sink"):
        steps.To(())
    with pytest.raises(ValueError, match="got 0"):
        steps.To((Shelf(),), timeout=0)


@pytest.mark.parametrize("first", [True, False])
def test_an_outlet_whose_reader_is_gone_leaves_no_other_at_work(first: bool) -> None:
    """The run has ended as disconnected then: what others were writing is cancelled, and they are closed."""

    class Gone(Shelf):
        async def write(self, values: Sequence[Any]) -> Any:
            raise ReaderDisconnected

    slow = Shelf(seconds=8)

    async def main() -> tuple[str, float, int]:
        loop = asyncio.get_running_loop()
        outlets = (Gone(), slow) if first else (slow, Gone())
        summary = await flow_of(*outlets).start(from_iterable([1]), DiscardResults()).finished
        return summary.reason, loop.time(), len(asyncio.all_tasks())

    assert quiet(main()) == ("disconnected", 0, 1)
    assert (slow.calls, slow.kept) == (["open", "close"], [])


def test_one_file_under_two_names_is_one_place(tmp_path: Path) -> None:
    """They share it; each has its own name in failures."""

    def fits(name: str) -> FileSink:
        outlet = FileSink(tmp_path / "all.ndjson")
        outlet.name = name
        return outlet

    async def main() -> dict[int, Result[Any]]:
        return await gathered(flow_of(fits("a"), fits("b")), [1, object()])

    with capture_logs():
        came = asyncio.run(main())
    assert (came[0].ok, came[1].failure.step) == (True, "a")
    assert (tmp_path / "all.ndjson").read_text() == "1\n1\n"


def test_a_cancelled_delivery_does_not_cut_short_an_outlet_that_still_opens() -> None:
    """One that hears of its cancelling once may still open, and is closed then."""

    class Reluctant(Shelf):
        async def open(self) -> None:
            opening = asyncio.ensure_future(asyncio.sleep(0.3))
            while not opening.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(opening)
            await super().open()

    class Slow(Shelf):
        async def open(self) -> None:
            await asyncio.sleep(1000)

    reluctant = Reluctant()

    async def main() -> None:
        started = flow_of(Slow(), reluctant).start(from_iterable([1, 2]), DiscardResults())
        await asyncio.sleep(0.1)
        started.abort()
        await started.finished

    quiet(main())
    assert reluctant.calls == ["open", "close"]


def test_two_sinks_with_one_name_are_rejected() -> None:
    """One of them would be missing wherever the sinks of a flow are listed or replaced by name."""
    message = "two sinks of flow f are named 'shelf'; give them different names"
    with pytest.raises(FlowDefinitionError, match=message):
        flow_of(Shelf("shelf")).to(Shelf("shelf"))
    with pytest.raises(FlowDefinitionError, match=message):
        flow_of(Shelf("shelf")).route(all=Otherwise(lambda branch: branch.to(Shelf("shelf"))))
    with pytest.raises(FlowDefinitionError, match="two sinks of flow f are named 'shelf'"):
        flow_of(Shelf("a")).to(Shelf("b")).sinks({"a": Shelf("shelf"), "b": Shelf("shelf")}).all_sinks  # noqa: B018


def test_equal_sinks_may_have_one_name() -> None:
    """They are one sink that several steps write to."""
    shelf = Shelf("shelf")
    assert flow_of(shelf).to(shelf).all_sinks == {"shelf": shelf}


def test_a_sink_without_a_name_is_shown_by_its_url_without_the_password() -> None:
    """As by the path of a file."""

    class Table(Shelf):
        url = "db://shop:secret@db.example/orders"

        async def open(self) -> None:
            raise OSError("no route")

    _, logs = loudly(flow_of(Table()).run(from_iterable([1])))
    assert {log["sink"] for log in logs if log["event"] == "sink.open_failed"} == {"db://…@db.example/orders"}
