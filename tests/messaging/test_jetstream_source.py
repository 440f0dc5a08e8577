"""JetStreamSource against a real server: credits are the pull, settling is the acknowledgement."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nats.js.errors import NotFoundError
from structlog.testing import capture_logs

from messaging.jetstream import Stream, new_stream
from penstock import Flow
from penstock.deadletters import DeadLetterQuery, MemoryStore, create_store
from penstock.errors import FlowDefinitionError
from penstock.results import DiscardResults
from penstock.runtime import Run
from penstock.sources import JetStreamSource
from penstock.sources.jetstream_run import JetStreamRun
from servers import NatsServer
from waiting import until_async


@pytest.fixture
async def stream(nats_server: NatsServer) -> Any:
    """An empty stream."""
    async with new_stream(nats_server) as found:
        yield found


def source_of(stream: Stream, **options: Any) -> JetStreamSource:
    """Make a source with the consumer `work`."""
    return JetStreamSource(stream.server.url, stream.name, "work", **options)


async def all_answered(stream: Stream) -> None:
    """Wait until the server has an answer for every message."""
    async with asyncio.timeout(30):
        while True:
            with suppress(NotFoundError):  # the run is about to create it
                info = await stream.consumer("work")
                if not info.num_pending and not info.num_ack_pending:
                    return
            await asyncio.sleep(0.02)


async def drained(run: Run) -> Any:
    """Drain a run; return its summary."""
    run.drain()
    return await asyncio.wait_for(run.finished, 30)


async def test_each_message_is_received_once_and_acknowledged(stream: Stream) -> None:
    """The element's input is the message, which the flow decodes as it does lines of a file."""
    seen: list[int] = []
    await stream.publish_numbers(3000)
    flow = Flow[Any]("f").window(64).tap(lambda value: seen.append(value["n"]))

    run = flow.start(source_of(stream), DiscardResults())
    await all_answered(stream)
    await stream.publish(b'{"n":3000}', b'{"n":3001}')
    await until_async(lambda: len(seen) == 3002)
    summary = await drained(run)

    assert sorted(seen) == list(range(3002))
    assert (summary.reason, summary.received, summary.ok) == ("draining", 3002, 3002)
    info = await stream.consumer("work")
    assert (info.num_ack_pending, info.num_redelivered, info.num_pending) == (0, 0, 0)


async def test_only_the_subjects_of_the_source_are_received(stream: Stream) -> None:
    """The consumer is created with them as its filter."""
    seen: list[int] = []
    await stream.publish(b'{"n":1}', subject="new")
    await stream.publish(b'{"n":2}', subject="old")
    await stream.publish(b'{"n":3}', subject="paid.late")
    subjects = (f"{stream.name}.new", f"{stream.name}.paid.*")

    flow = Flow[Any]("f").tap(lambda value: seen.append(value["n"]))
    run = flow.start(source_of(stream, subjects=subjects), DiscardResults())
    await until_async(lambda: len(seen) == 2)
    await all_answered(stream)
    await drained(run)

    assert seen == [1, 3]


async def test_subjects_that_the_stream_does_not_have_are_reported(stream: Stream) -> None:
    """The source would wait for ever, and say nothing."""
    subjects = (f"{stream.name}.*", f"{stream.name}x.new", "*.*.late")
    with capture_logs() as logs:
        run = Flow[Any]("f").start(source_of(stream, subjects=subjects), DiscardResults())
        await until_async(lambda: [entry for entry in logs if entry["event"] == "source.subjects_match_nothing"])
        await drained(run)

    (found,) = [entry for entry in logs if entry["event"] == "source.subjects_match_nothing"]
    assert found["subjects"] == [f"{stream.name}x.new"]


async def test_never_more_messages_are_open_than_the_window_has_credits(stream: Stream) -> None:
    """A slow step: the window is full, and no request for messages waits at the server."""
    await stream.publish_numbers(500)
    gate = asyncio.Event()

    async def work(value: Any) -> Any:
        await gate.wait()
        return value

    run = Flow[Any]("f").window(20).map_async(work, max_in_flight=8).start(source_of(stream), DiscardResults())
    await until_async(lambda: run.context.window.free == 0)
    await asyncio.sleep(0.3)

    info = await stream.consumer("work")
    assert (info.num_ack_pending, info.num_waiting, info.num_pending) == (20, 0, 480)
    gate.set()
    await all_answered(stream)
    assert (await drained(run)).ok == 500


async def test_bytes_that_wait_are_bounded_by_the_window(stream: Stream) -> None:
    """Large messages are not requested by the number of free elements alone."""
    await stream.publish(*[b'"%s"' % (b"x" * 100_000)] * 200)
    gate = asyncio.Event()

    async def work(value: Any) -> Any:
        await gate.wait()
        return value

    flow = Flow[Any]("f").window(200, bytes=1_000_000).map_async(work, max_in_flight=8)
    run = flow.start(source_of(stream), DiscardResults())
    await until_async(lambda: run.context.window.free_bytes < 100_002)
    await asyncio.sleep(0.3)

    assert (await stream.consumer("work")).num_ack_pending <= 42  # the window, and what fits into two requests
    gate.set()
    await all_answered(stream)
    assert (await drained(run)).ok == 200


async def test_message_larger_than_the_window_is_a_failed_element(stream: Stream) -> None:
    """Its dead letter has its beginning; the message is acknowledged."""
    store = MemoryStore()
    await stream.publish(b'{"n":1}', b'"%s"' % (b"x" * 500_000), b'{"n":2}')

    run = Flow[Any]("f").window(8, bytes=100_000).dead_letters(store).start(source_of(stream), DiscardResults())
    await all_answered(stream)
    summary = await drained(run)

    assert (summary.ok, summary.failed) == (2, 1)
    assert [letter.type for letter in (await store.page(DeadLetterQuery())).letters] == ["ElementTooLarge"]


async def test_failed_element_is_acknowledged_when_its_letter_is_durable(stream: Stream, tmp_path: Path) -> None:
    """A message that cannot be decoded fails like any other element. A redelivery writes no second letter."""
    await stream.publish(b"no JSON", b'{"n":1}', b'{"n":2}')
    url = f"sqlite:///{tmp_path}/letters.db"

    def check(value: Any) -> Any:
        if value["n"] == 2:
            raise ValueError("two")
        return value

    flow = Flow[Any]("f").map(check).dead_letters(url)
    run = flow.start(source_of(stream), DiscardResults())
    await all_answered(stream)
    await drained(run)
    again = JetStreamSource(stream.server.url, stream.name, "again")  # the same messages once more
    run = flow.start(again, DiscardResults())
    await until_async(lambda: run.context.ledger.received == 3 and not run.context.ledger.in_flight)
    summary = await drained(run)

    assert summary.failed == 2
    store = create_store(url)
    await store.open()
    letters = (await store.page(DeadLetterQuery())).letters
    await store.aclose()
    assert sorted(letter.step for letter in letters) == ["check", "decode"]
    assert sorted(letter.origin.split("@")[0] for letter in letters if letter.origin) == [
        f"nats:{stream.name}/1",
        f"nats:{stream.name}/3",
    ]


async def test_poisoned_message_becomes_a_letter_and_is_terminated(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `redeliver`, a message that fails each time is delivered `deliveries` times."""
    monkeypatch.setattr("penstock.sources.jetstream_run.REDELIVERY_SECONDS", 0.02)
    calls: list[int] = []
    store = MemoryStore()
    await stream.publish(b'{"n":1}', b'{"n":2}')

    def work(value: Any) -> Any:
        calls.append(value["n"])
        if value["n"] == 2:
            raise ValueError("again")
        return value

    flow = Flow[Any]("f", key="n").map(work).dead_letters(store)
    run = flow.start(source_of(stream, deliveries=3, on_failure="redeliver"), DiscardResults())
    await until_async(lambda: run.context.ledger.letters)
    await all_answered(stream)
    summary = await drained(run)

    assert sorted(calls) == [1, 2, 2, 2]
    letters = (await store.page(DeadLetterQuery())).letters
    assert [(letter.step, letter.type, letter.input) for letter in letters] == [("source", "Poisoned", b'{"n":2}')]
    assert letters[0].message == "the message was delivered 3 times and never succeeded, so it is not tried again"
    assert (letters[0].key, letters[0].cause) == (2, "ValueError: again (step work)")
    assert (summary.ok, summary.failed) == (1, 4)


async def test_failed_element_without_a_store_is_delivered_again_after_a_while(stream: Stream) -> None:
    """The delay grows with each delivery."""
    times: list[float] = []
    await stream.publish(b'{"n":1}')

    def work(value: Any) -> Any:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 3:
            raise ValueError("again")
        return value

    run = Flow[Any]("f").map(work).start(source_of(stream), DiscardResults())
    await all_answered(stream)
    summary = await drained(run)

    assert (summary.ok, summary.failed) == (1, 2)
    assert times[1] - times[0] >= 0.9
    assert times[2] - times[1] >= 1.9


@pytest.mark.parametrize("how", ["drain", "abort"])
async def test_stop_releases_all_leases_at_once(stream: Stream, how: str) -> None:
    """What is in flight is finished by a drain and given back by an abort; nothing waits for `ack_wait`."""
    seen: list[int] = []
    await stream.publish_numbers(400)

    async def work(value: Any) -> Any:
        await asyncio.sleep(0.02)
        seen.append(value["n"])
        return value

    flow = Flow[Any]("f").window(100).map_async(work, max_in_flight=10)
    run = flow.start(source_of(stream), DiscardResults())
    await until_async(lambda: len(seen) >= 30)
    getattr(run, how)()
    summary = await asyncio.wait_for(run.finished, 30)
    info = await stream.consumer("work")
    assert info.ack_floor.stream_seq <= summary.ok < 400

    run = flow.start(source_of(stream), DiscardResults())
    async with asyncio.timeout(15):  # less than `ack_wait`
        await all_answered(stream)
    await drained(run)

    assert sorted(set(seen)) == list(range(400))
    assert len(seen) == 400 if how == "drain" else len(seen) <= 410


async def test_leases_are_extended_while_elements_are_in_flight(stream: Stream) -> None:
    """An element may take longer than `ack_wait`, also one that waits for its turn."""
    await stream.publish_numbers(20)

    async def work(value: Any) -> Any:
        await asyncio.sleep(1.2)
        return value

    flow = Flow[Any]("f").window(20).map_async(work, max_in_flight=5)
    run = flow.start(source_of(stream, ack_wait=1), DiscardResults())
    await all_answered(stream)

    assert (await stream.consumer("work")).delivered.consumer_seq == 20
    assert (await drained(run)).ok == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ack_policy": "none"}, "does not have the ack policy explicit"),
        ({"max_deliver": 3}, "has max_deliver 3, expected -1"),
        ({"filter_subject": "NAME.old"}, "has the subjects"),
    ],
)
async def test_consumer_that_would_lose_messages_is_rejected(
    stream: Stream, options: dict[str, Any], message: str
) -> None:
    """It is not changed, because another program may use it."""
    options = {name: str(value).replace("NAME", stream.name) for name, value in options.items()} | {
        name: value for name, value in options.items() if isinstance(value, int)
    }
    await stream.jetstream.add_consumer(stream.name, durable_name="work", **options)

    summary = await Flow[Any]("f").run(source_of(stream))

    assert summary.reason == "failed"
    assert message in str(summary.error)


async def test_other_times_of_an_existing_consumer_are_used(stream: Stream) -> None:
    """Leases are extended as the consumer needs it, not as the source says."""
    await stream.jetstream.add_consumer(stream.name, durable_name="work", ack_wait=1, max_ack_pending=5)
    await stream.publish_numbers(10)

    async def work(value: Any) -> Any:
        await asyncio.sleep(1.5)
        return value

    run = Flow[Any]("f").map_async(work).start(source_of(stream, ack_wait=60), DiscardResults())
    await all_answered(stream)

    assert (await stream.consumer("work")).delivered.consumer_seq == 10
    assert (await drained(run)).ok == 10


async def test_run_fails_when_its_consumer_is_deleted(stream: Stream) -> None:
    """It would wait for ever."""
    await stream.publish_numbers(3)
    run = Flow[Any]("f").start(source_of(stream), DiscardResults())
    await all_answered(stream)
    await stream.jetstream.delete_consumer(stream.name, "work")

    summary = await asyncio.wait_for(run.finished, 30)

    assert summary.reason == "failed"
    assert "the consumer work was deleted" in str(summary.error)


async def test_run_fails_without_a_stream_and_without_a_server(stream: Stream) -> None:
    """The message says what to do."""
    missing = await Flow[Any]("f").run(JetStreamSource(stream.server.url, "no-such-stream", "work"))
    unreachable = await Flow[Any]("f").run(JetStreamSource("nats://me:s3cret@127.0.0.1:1", "S", "work"))

    assert "the stream no-such-stream does not exist; create it first" in str(missing.error)
    assert "cannot reach 127.0.0.1:1; check that a NATS server runs there" in str(unreachable.error)


async def test_message_that_comes_again_while_the_run_stops(stream: Stream) -> None:
    """From a server that forgot the delivery: an element that is still in flight is not given to another worker."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(value: Any) -> Any:
        entered.set()
        await leave.wait()
        return value

    await stream.publish_numbers(1)
    source = source_of(stream)
    runs: list[JetStreamRun] = []
    begin = JetStreamRun.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JetStreamRun, "open", lambda self: runs.append(self) or begin(self))
        run = Flow[Any]("f").map_async(work).start(source, DiscardResults())
        await asyncio.wait_for(entered.wait(), 30)
    (receiver,) = runs
    (lease,) = receiver._open.values()
    run.drain()
    await receiver._on_message(SimpleNamespace(reply=lease.reply, data=b'{"n":0}'))
    other = Flow[Any]("f").start(source, DiscardResults())
    await asyncio.sleep(0.5)
    leave.set()

    assert (await asyncio.wait_for(run.finished, 30)).ok == 1
    assert (await drained(other)).received == 0
    info = await stream.consumer("work")
    assert (info.num_ack_pending, info.num_pending) == (0, 0)


async def test_run_fails_without_its_credentials() -> None:
    """Whether the file is missing or the package that reads it."""
    source = JetStreamSource("nats://127.0.0.1:1?credentials=/nowhere/me.creds", "S", "work")
    summary = await Flow[Any]("f").run(source)
    assert "nats S/work: cannot read the credentials /nowhere/me.creds" in str(summary.error) or (
        "nats S/work: credentials need the package nkeys" in str(summary.error)
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("http://host", "S", "d"), {}, "expected nats://HOST"),
        (("nats://me:pa/ss@host", "S", "d"), {}, "write it as %2F"),
        (("nats://host/stream", "S", "d"), {}, "unexpected 'stream' after the host"),
        (("nats://host?create=no", "S", "d"), {}, "unknown option 'create'"),
        (("nats://host", "S.1", "d"), {}, "stream: invalid name 'S.1'"),
        (("nats://host", "S", "d *"), {}, r"durable: invalid name 'd \*'"),
        (("nats://host", "S", "d"), {"subjects": ("a b",)}, "subjects: invalid subject 'a b'"),
        (("nats://host", "S", "d"), {"ack_wait": 0}, "ack_wait: expected at least 1 second"),
        (("nats://host", "S", "d"), {"deliveries": 0}, "deliveries: expected at least 1"),
        (("nats://host", "S", "d"), {"on_failure": "drop"}, "on_failure: expected dead_letter or redeliver"),
    ],
)
def test_invalid_settings_are_rejected(arguments: tuple[str, str, str], options: dict[str, Any], message: str) -> None:
    """When the source is made, and without the password."""
    with pytest.raises(FlowDefinitionError, match=message) as caught:
        JetStreamSource(*arguments, **options)

    assert "pa/ss" not in str(caught.value)
