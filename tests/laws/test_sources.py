"""One suite for all sources, and what is special for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import reactivex
import reactivex.operators
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.virtual import within
from penstock import Flow, from_async_iterable, from_iterable, ndjson
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.errors import PushSourceClosed, SourceFailed
from penstock.flow.flow import When
from penstock.results import DiscardResults, LineWriter, ResultConsumer
from penstock.runtime import Run, Summary
from penstock.sources import PushSource, Source, from_observable, generate, ticks
from penstock.testing import run


class Broke(Exception):
    """How the sources under test break."""


class Reading:
    """What a source read, how far, and whether it was closed."""

    def __init__(self, count: int = 1000, broken: bool = False) -> None:
        self.count = count
        self.broken = broken
        self.taken = 0
        self.closed = False

    def values(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.taken += 1
                yield number
            if self.broken:
                raise Broke
        finally:
            self.closed = True

    async def values_later(self) -> AsyncIterator[int]:
        for number in self.values():
            await asyncio.sleep(0)
            yield number

    async def chunks(self) -> AsyncIterator[bytes]:
        for number in self.values():
            await asyncio.sleep(0)
            yield b"%d\n" % number

    def feed(self) -> Source[int]:
        feed: PushSource[int] = PushSource(5)

        async def fill() -> None:
            try:
                for number in self.values():
                    await feed.push(number)
                    await asyncio.sleep(0)
                feed.close()
            except PushSourceClosed:
                pass
            except Broke as error:
                await asyncio.sleep(1)
                feed.fail(error)

        self.task = asyncio.get_running_loop().create_task(fill())
        return feed


SOURCES: dict[str, tuple[Callable[[Reading], Source[Any]], int]] = {
    "iterable": (lambda reading: from_iterable(reading.values()), 0),
    "async iterable": (lambda reading: from_async_iterable(reading.values_later()), 0),
    "ndjson": (lambda reading: ndjson(reading.chunks()), 1),
    "push": (lambda reading: reading.feed(), 6),
}
"""Every source by its name, and how many values it may have read beyond its credits."""

every_source = pytest.mark.parametrize("name", SOURCES)


class Never(ResultConsumer):
    """Takes results and settles none."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def on_next(self, value: list[Any]) -> None:
        self.taken += len(value)


def ends(flow: Flow[Any], source: Source[Any], sink: ResultConsumer | None = None) -> Any:
    return flow.start(source, sink or DiscardResults()).finished


def quiet(work: Any) -> Any:
    with capture_logs():
        return run(within(10_000, work))


@every_source
@settings(max_examples=10, deadline=None)
@given(window=st.integers(1, 20))
def test_a_source_reads_no_further_than_its_credits(name: str, window: int) -> None:
    """When nothing is settled, a source emits its window and has read no more than that and its allowance."""
    make, ahead = SOURCES[name]

    async def main() -> tuple[int, int]:
        reading = Reading()
        sink = Never()
        halted = Flow("f").window(window).start(make(reading), sink)
        await asyncio.sleep(100)
        taken = reading.taken
        halted.abort()
        await halted.finished
        return sink.taken, taken

    emitted, taken = quiet(main())
    assert emitted == window
    assert taken <= window + ahead


@every_source
def test_draining_completes_a_source(name: str) -> None:
    """Drained midway: what was emitted is finished, the run ends as draining, and the source is closed."""
    make, _ = SOURCES[name]

    async def main() -> tuple[Summary, Reading]:
        reading = Reading(count=10**9)
        drained = Flow("f").window(4).throttle(10).start(make(reading), DiscardResults())
        await asyncio.sleep(5)
        drained.drain()
        summary = await drained.finished
        await asyncio.sleep(0)
        return summary, reading

    summary, reading = quiet(main())
    assert (summary.reason, summary.cancelled) == ("draining", 0)
    assert reading.closed or name == "iterable"  # which Python closes when nobody holds it any more
    assert summary.ok > 40


@every_source
def test_draining_before_the_first_element_completes_too(name: str) -> None:
    """A drain may come at any turn of the loop, also before the source's task has taken its first step."""
    make, _ = SOURCES[name]

    async def main(turns: int) -> Summary:
        drained = Flow("f").start(make(Reading(count=3)), DiscardResults())
        for _ in range(turns):
            await asyncio.sleep(0)
        drained.drain()
        return await drained.finished

    summaries = [quiet(main(turns)) for turns in range(6)]
    assert summaries[0].received == summaries[0].filtered  # what a feed had been given
    assert {summary.reason for summary in summaries} <= {"draining", "completed"}
    assert {summary.cancelled for summary in summaries} == {0}


@every_source
def test_a_source_that_breaks_is_reported_and_what_it_gave_is_finished(name: str) -> None:
    """The run ends as failed and names the source and the error; nothing that it gave before is lost."""
    make, _ = SOURCES[name]

    async def main() -> tuple[Summary, Run]:
        broken = Flow("f").throttle(10).start(make(Reading(count=3, broken=True)), DiscardResults())
        return await broken.finished, broken

    summary, broken = quiet(main())
    assert isinstance(broken.error, SourceFailed)
    assert (summary.reason, summary.error) == ("failed", f"the source {name} failed: Broke")
    assert (summary.ok, summary.cancelled) == (3, 0)


@every_source
def test_a_source_is_closed_when_its_run_is_aborted(name: str) -> None:
    """Waiting for credits or not: the abort closes what the source reads from before the run is over."""
    make, _ = SOURCES[name]

    async def main() -> bool:
        reading = Reading()
        aborted = Flow("f").window(2).start(make(reading), Never())
        await asyncio.sleep(1)
        aborted.abort()
        await aborted.finished
        for _ in range(3):  # the sender of a feed is a task of its own
            await asyncio.sleep(0)
        return reading.closed or name == "iterable"  # which Python closes when nobody holds it any more

    assert quiet(main())


@pytest.mark.parametrize("make", [ndjson, from_async_iterable])  # the others await nothing of the user's
def test_a_source_whose_own_wait_is_cancelled_does_not_hang(make: Callable[[Any], Source[Any]]) -> None:
    """A CancelledError that comes out of what a source awaits is a break, though its task was not cancelled."""

    async def broken() -> AsyncIterator[Any]:
        yield b"1\n"
        inner = asyncio.ensure_future(asyncio.sleep(10))
        inner.cancel()
        await inner

    async def main() -> Summary:
        return await ends(Flow("f"), make(broken()))

    summary = quiet(main())
    assert (summary.reason, summary.ok) == ("failed", 1)


@pytest.mark.parametrize(
    "source",
    [
        from_iterable([1, 2, 3]),
        ticks(1, 3),
        generate(3, lambda number: number),
        from_observable(reactivex.of(1, 2, 3), capacity=5),
    ],
    ids=lambda source: source.name,
)
def test_a_source_of_something_repeatable_may_be_run_again(source: Source[Any]) -> None:
    """A cold source starts anew for each run."""

    async def main() -> list[int]:
        return [(await ends(Flow("f"), source)).ok for _ in range(2)]

    assert quiet(main()) == [3, 3]


async def three_later() -> AsyncIterator[int]:
    for number in range(3):
        yield number


@pytest.mark.parametrize(
    "make",
    [lambda: from_iterable(iter([1, 2, 3])), lambda: from_async_iterable(three_later())],
    ids=["iterator", "async iterator"],
)
def test_an_iterator_that_was_used_up_is_not_taken_for_one_without_values(make: Callable[[], Source[Any]]) -> None:
    """A second run breaks and says why; with nothing in it, all would seem to be well."""

    async def main() -> tuple[Summary, Summary]:
        source = make()
        return await ends(Flow("f"), source), await ends(Flow("f"), source)

    first, second = quiet(main())
    assert (first.reason, first.ok) == ("completed", 3)
    assert (second.reason, second.received) == ("failed", 0)
    assert "iterator was consumed by an earlier run; use a list" in second.error


def test_a_generator_that_broke_is_used_up() -> None:
    """Python ends it then; a worker that starts again hears of it."""

    def broken() -> Iterator[int]:
        yield 1
        raise Broke

    async def main() -> tuple[Summary, Summary]:
        source = from_iterable(broken())
        return await ends(Flow("f"), source), await ends(Flow("f"), source)

    first, second = quiet(main())
    assert (first.ok, first.error) == (1, "the source iterable failed: Broke")
    assert "iterator was consumed" in second.error


def test_an_iterator_that_a_run_left_goes_on_with_the_next() -> None:
    """A drained run takes no more of it; what is left is there for whoever comes then."""

    async def main() -> tuple[Summary, Summary]:
        source = from_iterable(iter(range(100)))
        drained = Flow("f").window(1).throttle(1).start(source, DiscardResults())
        await asyncio.sleep(5.5)
        drained.drain()
        return await drained.finished, await ends(Flow("f"), source)

    first, second = quiet(main())
    assert first.reason == "draining"
    assert (second.reason, first.received + second.received) == ("completed", 100)


def test_an_element_larger_than_the_window_fails_and_keeps_its_beginning() -> None:
    """What can never fit is let go of: a failed element, with its first bytes and its true size in the letter."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'1\n"' + b"x" * 9000 + b'"\n2\n'

    async def main() -> tuple[Summary, Any]:
        store = MemoryStore()
        summary = await ends(Flow("f", bytes=5000).dead_letters(store), ndjson(chunks()))
        return summary, (await store.page(DeadLetterQuery())).letters[0]

    summary, letter = quiet(main())
    assert (summary.ok, summary.failed) == (2, 1)
    assert (letter.type, letter.input_size, len(letter.input)) == ("ElementTooLarge", 9002, 4096)


# Observables and clocks


def test_an_observable_is_read_behind_a_buffer() -> None:
    """A hot burst larger than the buffer is cut to it, and counted."""

    async def main() -> Summary:
        def burst(observer: Any, _: Any = None) -> Any:
            for number in range(100):
                observer.on_next(number)
            observer.on_completed()

        return await ends(Flow("f"), from_observable(reactivex.create(burst), capacity=10))

    summary = quiet(main())
    assert (summary.received, summary.ok, summary.filtered) == (100, 10, 90)


def test_an_observable_runs_in_the_run_s_time_and_is_disposed() -> None:
    """A timed Observable ticks on the event loop, and stops when the run is drained."""
    disposed: list[bool] = []

    async def main() -> Summary:
        source = reactivex.interval(1.0).pipe(reactivex.operators.finally_action(lambda: disposed.append(True)))
        drained = Flow("f").start(from_observable(source, capacity=2), DiscardResults())
        await asyncio.sleep(5.5)
        drained.drain()
        return await drained.finished

    assert (quiet(main()).ok, disposed) == (5, [True])


def test_an_observable_that_errors_breaks_the_run() -> None:
    """`on_error` is a fault of the flow."""

    async def main() -> Summary:
        return await ends(Flow("f"), from_observable(reactivex.throw(Broke("so")), capacity=2))

    assert quiet(main()).error == "the source observable failed: so"


def test_an_observable_cannot_hold_back() -> None:
    """The overflow that needs waiting is refused, and the others are named."""
    with pytest.raises(ValueError, match="drop_oldest, drop_newest or fail"):
        from_observable(reactivex.empty(), capacity=1, overflow="backpressure")


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1.0, 7.0])
def test_ticks_come_at_their_times(seconds: float) -> None:
    """Tick n at n after n times the seconds: none doubled, none drifting."""

    async def main() -> list[float]:
        times: list[float] = []
        flow = Flow("f").tap(lambda _: times.append(asyncio.get_running_loop().time()))
        await ends(flow, ticks(seconds, 30))
        return times

    assert quiet(main()) == pytest.approx([number * seconds for number in range(30)])


def test_missed_ticks_are_skipped() -> None:
    """A run that was busy for 3.5 ticks goes on with the next one on the beat."""

    async def main() -> list[float]:
        times: list[float] = []

        async def slow(value: int) -> int:
            times.append(asyncio.get_running_loop().time())
            await asyncio.sleep(3.5)
            return value

        await ends(Flow("f").window(1).map_async(slow), ticks(1.0, 3))
        return times

    assert quiet(main()) == [0.0, 4.0, 8.0]


def test_generated_values_are_made_of_their_numbers() -> None:
    """From 1 to the count, each made when there is a credit for it."""
    made: list[int] = []

    async def main() -> int:
        halted = Flow("f").window(3).start(generate(10, lambda number: made.append(number) or number), Never())
        await asyncio.sleep(1)
        halted.abort()
        return (await halted.finished).received

    assert (quiet(main()), made) == (3, [1, 2, 3])


def test_a_function_that_raises_breaks_the_source() -> None:
    """What was made before is finished, and the run says what broke."""

    async def main() -> Summary:
        return await ends(Flow("f"), generate(5, lambda number: 1 // (3 - number)))

    summary = quiet(main())
    assert (summary.ok, summary.error) == (2, "the source generated failed: integer division or modulo by zero")


def test_there_cannot_be_less_than_nothing() -> None:
    """A negative count is refused, with the value."""
    with pytest.raises(ValueError, match="-1"):
        generate(-1, abs)
    with pytest.raises(ValueError, match="-1"):
        ticks(1, -1)


def test_sources_of_the_same_words_are_equal() -> None:
    """So are their hashes, and what tells them apart is seen in how they are shown."""
    assert (ticks(1, 3), generate(3, abs)) == (ticks(1, 3), generate(3, abs))
    assert len({ticks(1), ticks(1), ticks(2), generate(1, abs), generate(1, abs), generate(1, round)}) == 4
    assert repr(ticks(1.5, 3)) == "Ticks(seconds=1.5, total=3)"


def test_ticks_need_time_between_them() -> None:
    """Zero seconds are refused, with the value."""
    with pytest.raises(ValueError, match="got 0"):
        ticks(0)


def test_lines_of_a_stream_of_chunks_become_elements() -> None:
    """From chunks to results: each line an element, in order, with its number."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in (b'{"a":', b"1}\r\n\n[2", b"]\n", b'"last"'):
            yield piece

    async def main() -> bytes:
        out: list[bytes] = []

        async def write(data: bytes) -> None:
            out.append(data)

        await ends(Flow("f"), ndjson(chunks()), LineWriter(write))
        return b"".join(out)

    assert quiet(main()).splitlines() == [
        b'{"ok":true,"seq":0,"value":{"a":1}}',
        b'{"ok":true,"seq":1,"value":[2]}',
        b'{"ok":true,"seq":2,"value":"last"}',
    ]


def test_a_second_source_is_refused_by_name() -> None:
    """Its elements would have the numbers of the first one's, or never come."""

    async def main(join: Any) -> Summary:
        return await Flow("f").start(join(from_iterable([1, 2]), ticks(1, 2)), DiscardResults()).finished

    for join in (reactivex.concat, reactivex.merge):
        summary = quiet(main(join))
        assert summary.reason == "failed"
        assert "one source, but the source ticks is used" in str(summary.error)


def test_a_second_source_in_a_branch_is_refused_too() -> None:
    """A branch is a part of its run, which has one source."""

    def join(source: Any) -> Any:
        return reactivex.merge(source, ticks(1, 2))

    async def main() -> Summary:
        flow = Flow[int]("f").route(all=When(bool, lambda fork: fork.operator(join)))
        return await flow.start(from_iterable([1, 2]), DiscardResults()).finished

    summary = quiet(main())
    assert summary.reason == "failed"
    assert "the source ticks is used in addition" in str(summary.error)
