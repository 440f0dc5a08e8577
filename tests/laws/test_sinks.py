"""One suite for all sinks, and what is special for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.virtual import within
from penstock import Flow, from_iterable, ticks
from penstock.deadletters import MemoryStore
from penstock.errors import ReaderDisconnected
from penstock.results import DiscardResults, LineWriter, ResultConsumer, ResultStream, ServerSentEvents
from penstock.runtime import Run, Summary
from penstock.testing import run


class Taken:
    """What a reader took, one write or result at a time, each taking `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.writes: list[bytes] = []
        self.results = 0

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(self.seconds)
        self.writes.append(data)
        self.results += data.count(b"\n")

    async def ask(self, sink: ResultStream) -> None:
        while await sink.next() is not None:
            self.results += 1
            await asyncio.sleep(self.seconds)


def lines(taken: Taken) -> ResultConsumer:
    return LineWriter(taken.write)


def outcomes(taken: Taken) -> ResultConsumer:
    sink = ResultStream()
    asyncio.get_running_loop().create_task(taken.ask(sink))
    return sink


def discard(_: Taken) -> ResultConsumer:
    return DiscardResults()


SINKS: dict[str, Callable[[Taken], ResultConsumer]] = {"lines": lines, "outcomes": outcomes, "discard": discard}

every_sink = pytest.mark.parametrize("name", SINKS)
every_reader = pytest.mark.parametrize("name", ["lines", "outcomes"])


def odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("even")
    return value


def quiet(work: Any) -> Any:
    with capture_logs():
        return run(within(10_000, work))


@every_sink
@pytest.mark.parametrize("count", [0, 1, 700])
def test_a_sink_takes_and_settles_everything(name: str, count: int) -> None:
    """All that came is told (where there is a reader) and settled, then the run is over."""

    async def main() -> tuple[Summary, Taken]:
        taken = Taken()
        flow = Flow("f").map(odd).dead_letters(MemoryStore())
        return await flow.start(from_iterable(range(count)), SINKS[name](taken)).finished, taken

    summary, taken = quiet(main())
    assert (summary.reason, summary.received, summary.ok) == ("completed", count, count // 2)
    assert taken.results == (0 if name == "discard" else count)


@every_reader
def test_a_reader_that_stops_stops_the_source(name: str) -> None:
    """Nothing is settled that the reader did not take, so the source stands still at its window."""
    made: list[int] = []

    def values() -> Any:
        for number in range(1000):
            made.append(number)
            yield number

    async def main() -> Summary:
        taken = Taken(seconds=1e9)
        halted = Flow("f").window(10).start(from_iterable(values()), SINKS[name](taken))
        await asyncio.sleep(1000)
        halted.abort()
        return await halted.finished

    summary = quiet(main())
    assert len(made) <= 11
    assert summary.ok + summary.cancelled == len(made)


@every_sink
def test_a_sink_serves_one_run(name: str) -> None:
    """A second run with the same sink fails at once and says to make another."""

    async def main() -> Summary:
        sink = SINKS[name](Taken())
        await Flow("f").start(from_iterable([1]), sink).finished
        return await Flow("f").start(from_iterable([1]), sink).finished

    assert quiet(main()).error == "the consumer was used in a run before: create one for each run"


@every_sink
def test_an_aborted_run_lets_go_of_its_sink(name: str) -> None:
    """A reader that waits is told that there is no more; no task is left."""

    async def main() -> int:
        taken = Taken()
        aborted = (
            Flow("f").map_async(lambda value: asyncio.sleep(1e6, value)).start(from_iterable([1]), SINKS[name](taken))
        )
        await asyncio.sleep(1)
        aborted.abort()
        await aborted.finished
        await asyncio.sleep(0)
        return len(asyncio.all_tasks()) - 1

    assert quiet(main()) == 0


def test_many_results_are_written_at_once() -> None:
    """What comes while a write lasts goes into the next one: few writes for many lines."""

    async def main() -> Taken:
        taken = Taken(seconds=1)
        await Flow("f").start(from_iterable(range(1000)), LineWriter(taken.write)).finished
        return taken

    taken = quiet(main())
    assert (taken.results, len(taken.writes)) == (1000, 4)


def test_an_element_is_settled_when_the_write_that_holds_it_returns() -> None:
    """While the first write lasts, nothing is settled; when it returned, all that it held is."""

    async def main() -> list[tuple[float, int]]:
        seen: list[tuple[float, int]] = []

        async def write(_: bytes) -> None:
            seen.append((asyncio.get_running_loop().time(), started.window.free))
            await asyncio.sleep(1)

        started: Run = Flow("f").window(5).start(from_iterable(range(10)), LineWriter(write))
        await started.finished
        return seen

    assert quiet(main()) == [(0.0, 0), (1.0, 0)]


def test_a_reader_that_is_gone_cancels_the_run() -> None:
    """`ReaderDisconnected` is no failure: the run ends as disconnected, nothing failed."""

    async def gone(_: bytes) -> None:
        raise ReaderDisconnected

    async def main() -> Summary:
        return await Flow("f").start(from_iterable(range(10)), LineWriter(gone)).finished

    summary = quiet(main())
    assert (summary.reason, summary.error, summary.cancelled, summary.failed) == ("disconnected", None, 10, 0)


def test_a_write_that_breaks_fails_the_run() -> None:
    """Any other error of a write is a fault of the run, and named."""

    async def broken(_: bytes) -> None:
        raise OSError("no space")

    async def main() -> Summary:
        return await Flow("f").start(from_iterable(range(10)), LineWriter(broken)).finished

    summary = quiet(main())
    assert (summary.reason, summary.error) == ("failed", "no space")


def test_a_write_that_is_cancelled_by_others_does_not_hang() -> None:
    """A CancelledError out of a write that nobody cancelled ends the run as failed."""

    async def cancelled(_: bytes) -> None:
        inner = asyncio.ensure_future(asyncio.sleep(10))
        inner.cancel()
        await inner

    async def main() -> Summary:
        return await Flow("f").start(from_iterable(range(10)), LineWriter(cancelled)).finished

    summary = quiet(main())
    assert summary.reason == "failed"
    assert "was cancelled from outside" in str(summary.error)


def test_a_sink_that_raises_fails_the_run() -> None:
    """A bug in a sink is loud: the run fails with its error."""

    class Broken(ResultConsumer):
        def on_next(self, value: list[Any]) -> None:
            raise KeyError("bug")

    async def main() -> Summary:
        return await Flow("f").start(from_iterable([1]), Broken()).finished

    assert quiet(main()).error == "'bug'"


def test_a_sink_that_raises_after_its_last_word_fails_the_run() -> None:
    """A bug is loud even where the sink had said already that all is done."""

    class Hasty(DiscardResults):
        def on_completed(self) -> None:
            self.complete()
            raise KeyError("bug")

    async def main() -> Summary:
        return await Flow("f").start(from_iterable([1]), Hasty()).finished

    assert quiet(main()).error == "'bug'"


def test_a_sink_that_loses_elements_is_found_out() -> None:
    """A sink that ends without settling makes the run fail, with the number of elements."""

    class Loses(ResultConsumer):
        def on_next(self, value: list[Any]) -> None:
            pass

    async def main() -> Summary:
        return await Flow("f").start(from_iterable([1, 2]), Loses()).finished

    summary = quiet(main())
    assert (summary.reason, summary.cancelled) == ("failed", 2)
    assert "2 elements that were never settled" in str(summary.error)


def test_events_carry_their_seq_as_id() -> None:
    """As server-sent events: the same records, `seq` (and the part) as the id."""

    async def main() -> bytes:
        taken = Taken()
        flow = Flow("f").flat_map(lambda value: [value] * value)
        await flow.start(from_iterable([1]), LineWriter(taken.write, ServerSentEvents())).finished
        return b"".join(taken.writes)

    assert quiet(main()) == b'event: result\nid: 0.0\ndata: {"ok":true,"seq":0,"value":1,"part":0}\n\n'


def test_comments_come_between_records() -> None:
    """The task that writes the records writes it, in one line; not while a write waits for the reader."""

    async def main() -> Taken:
        taken = Taken(seconds=1)
        writer = LineWriter(taken.write, ServerSentEvents())
        started = Flow("f").start(ticks(2, 2), writer)
        await asyncio.sleep(1.5)
        writer.write_comment("waiting for\nx")
        await asyncio.sleep(1.5)  # the second tick comes while that is written
        assert writer.writing
        writer.write_comment("dropped")
        await started.finished
        return taken

    assert [write.partition(b"\n")[0] for write in quiet(main()).writes] == [
        b"event: result",
        b": waiting for x",
        b"event: result",
    ]


def test_ndjson_has_no_comments() -> None:
    """Nothing is written: each line is a record."""

    async def main() -> Taken:
        taken = Taken()
        writer = LineWriter(taken.write)
        started = Flow("f").start(from_iterable([1]), writer)
        writer.write_comment("waiting")
        await started.finished
        return taken

    assert quiet(main()).writes == [b'{"ok":true,"seq":0,"value":1}\n']
