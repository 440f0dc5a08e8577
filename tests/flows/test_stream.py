"""`flow.run` and `flow.stream`: how a program runs a flow and takes its results."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from laws.virtual import quiet, results
from penstock import Failed, Flow, Ok, RunError, Service, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import ResultConsumer


def odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even")
    return value


def test_a_result_is_ok_with_a_value_or_failed_with_a_failure() -> None:
    """`match` and `isinstance` tell the two apart, and so does `ok`."""
    ok, failed = results(Flow("f", key="n").map(lambda item: 6 // item["n"], name="divide"), [{"n": 3}, {"n": 0}])

    assert ok == Ok(2, 0, 3)
    assert isinstance(failed, Failed)
    assert (failed.failure.step, failed.failure.type, failed.seq, failed.key) == ("divide", "ZeroDivisionError", 1, 0)
    assert (ok.ok, failed.ok) == (True, False)


def test_a_failed_result_has_no_value() -> None:
    """Reading it raises an error that names the failure: a program that forgot to look at `ok` does not take None."""
    (failed,) = results(Flow("f").map(odd), [2])

    with pytest.raises(AttributeError, match=r"element 0 failed at step odd, .*check result.ok.*ValueError: 2 is even"):
        _ = failed.value


def test_a_result_that_is_ok_has_no_failure() -> None:
    """Reading it raises an error, too."""
    (ok,) = results(Flow("f").map(odd), [1])

    with pytest.raises(AttributeError, match="element 0 did not fail"):
        _ = ok.failure


def test_parts_and_dead_letters_are_named_in_results() -> None:
    """A part has its number, a failure the id of its dead letter."""
    store = MemoryStore()
    flow = Flow("f").flat_map(lambda value: [value, value + 1]).map(odd).dead_letters(store)

    async def main() -> Any:
        found = [result async for result in flow.stream(from_iterable([1]))]
        return found, (await store.page(DeadLetterQuery())).letters

    (ok, failed), (letter,) = quiet(main())
    assert (ok.part, failed.part, failed.dead_letter) == (0, 1, letter.id)


def test_a_run_gives_its_summary() -> None:
    """Without a consumer the results are discarded."""
    summary = quiet(Flow("f").map(odd).run(from_iterable(range(5))))

    assert (summary.reason, summary.received, summary.ok, summary.failed) == ("completed", 5, 2, 3)


def test_a_consumer_takes_the_results_of_a_run() -> None:
    """It settles them itself."""

    class Taker(ResultConsumer):
        taken: list[Any] = []  # noqa: RUF012 - of one test

        def on_next(self, value: list[Any]) -> None:
            self.taken += [element.value for element in value]
            self.context.ledger.settle_accepted(value)

    summary = quiet(Flow("f").run(from_iterable([1, 2]), Taker()))
    assert (summary.ok, Taker.taken) == (2, [1, 2])


def test_the_summary_of_a_run_that_failed_has_the_error() -> None:
    """`run` returns it, as there may be results to count."""

    def values() -> Any:
        yield 1
        raise ConnectionError("gone")

    summary = quiet(Flow("f").run(from_iterable(values())))
    assert (summary.reason, summary.ok, summary.error) == ("failed", 1, "the source iterable failed: gone")


def never() -> Service:
    return Service("s", lambda value: asyncio.sleep(1e6, value), timeout=1e9)


def test_a_cancelled_run_leaves_nothing() -> None:
    """Its tasks and calls are gone when the cancel has arrived."""
    service = never()

    async def main() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await Flow("f").map_async(service).run(from_iterable(range(100)))
        return len(asyncio.all_tasks()) - 1

    assert (quiet(main()), service.statistics().in_flight) == (0, 0)


@pytest.mark.parametrize("error", [None, KeyError("mine"), asyncio.CancelledError()], ids=repr)
def test_a_block_that_is_left_leaves_nothing(error: BaseException | None) -> None:
    """However it is left, and whether a result was taken or not."""
    service = never()

    async def leave(taken: int) -> None:
        async with Flow("f").flat_map(range).map_async(service).stream(from_iterable([taken, 100])) as stream:
            await asyncio.sleep(1)
            if error is not None:
                raise error
            assert stream.run.ledger.received == 2

    async def main() -> int:
        for taken in range(3):
            if error is None:
                await leave(taken)
                continue
            with pytest.raises(type(error)):
                await leave(taken)
        return len(asyncio.all_tasks()) - 1

    assert (quiet(main()), service.statistics().in_flight) == (0, 0)


def test_a_loop_can_go_on_in_its_block() -> None:
    """It is the block that ends the run, not the loop: it may be left, and begun again."""

    async def main() -> list[int]:
        seen: list[int] = []
        async with Flow("f").stream(from_iterable(range(6))) as stream:
            async for result in stream:
                seen.append(result.value)
                if result.value == 2:
                    break
            seen += [result.value async for result in stream]
            assert [result async for result in stream] == []
            assert (await stream.run.finished).reason == "completed"
        return seen

    assert quiet(main()) == [0, 1, 2, 3, 4, 5]


def test_a_wait_in_a_block_may_have_a_timeout() -> None:
    """No result is lost by it."""

    async def main() -> list[int]:
        flow = Flow("f").map_async(lambda value: asyncio.sleep(value, value))
        async with flow.stream(from_iterable([5, 9])) as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(stream)
            return [result.value async for result in stream]

    assert quiet(main()) == [5, 9]


async def take_all(flow: Flow[Any]) -> None:
    async for _ in flow.stream(from_iterable(range(100))):
        pass


def test_a_loop_without_a_block_that_is_cancelled_leaves_nothing() -> None:
    """The run is over when the cancel has arrived."""
    service = never()

    async def main() -> int:
        taking = asyncio.create_task(take_all(Flow("f").map_async(service)))
        await asyncio.sleep(5)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        return len(asyncio.all_tasks()) - 1

    assert (quiet(main()), service.statistics().in_flight) == (0, 0)


def test_results_belong_to_one_run() -> None:
    """A second block with them is an error, and a loop over them after their end has none."""

    async def main() -> None:
        stream = Flow("f").stream(from_iterable([1]))
        with pytest.raises(RuntimeError, match="has not started"):
            _ = stream.run
        assert [result.value async for result in stream] == [1]
        assert [result.value async for result in stream] == []
        with pytest.raises(RuntimeError, match=r"call flow\.stream"):
            async with stream:
                pass

    quiet(main())


def test_a_stream_that_nobody_begins_starts_no_run() -> None:
    """It may be closed, and then has no results."""

    async def main() -> list[Any]:
        stream = Flow("f").stream(from_iterable([1]))
        await stream.aclose()
        assert len(asyncio.all_tasks()) == 1
        return [result async for result in stream]

    assert quiet(main()) == []


def test_the_block_of_a_broken_source_raises_after_the_last_result() -> None:
    """First the results of what it gave, then `RunError`; once."""

    def values() -> Any:
        yield 1
        raise ConnectionError("gone")

    async def main() -> None:
        async with Flow("f").stream(from_iterable(values())) as stream:
            assert (await anext(stream)).value == 1
            with pytest.raises(RunError, match="the source iterable failed: gone"):
                await anext(stream)
            assert [result async for result in stream] == []

    quiet(main())
