"""JetStreamSink against a real server: each value is acknowledged, or fails alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from messaging.jetstream import Stream, new_stream
from penstock import Flow, from_async_iterable, from_iterable
from penstock.core.element import Outcome
from penstock.errors import EncodingFailed, FlowDefinitionError, InvalidItem, SinkWriteFailed
from penstock.results import DiscardResults
from penstock.sinks import JetStreamSink
from penstock.sinks.jetstream import SubjectTemplate, message_id
from penstock.sources import JetStreamSource
from servers import NatsServer
from waiting import HANG_SECONDS, until_async


@pytest.fixture
async def stream(nats_server: NatsServer) -> Any:
    """An empty stream."""
    async with new_stream(nats_server) as found:
        yield found


async def written(sink: JetStreamSink, *values: Any) -> list[Exception | None]:
    """Write values with a sink that is opened for it; return the errors."""
    await sink.open()
    try:
        return list(await sink.write(values) or [None] * len(values))
    finally:
        await sink.aclose()


async def test_values_are_published_in_order_with_subject_and_id(stream: Stream) -> None:
    """As JSON; bytes unchanged."""
    sink = JetStreamSink(stream.server.url, f"{stream.name}.{{shop.country}}.o{{n}}", id="'order-' + string(value.n)")
    values = [{"n": n, "shop": {"country": "pt"}} for n in range(2000)]

    summary = await Flow[Any]("f").to(sink).run(from_iterable(values))
    raw = await written(JetStreamSink(stream.server.url, f"{stream.name}.raw"), b"\x00\xff")

    messages = await stream.messages()
    assert summary.ok == 2000
    assert raw == [None]
    assert messages[7].subject == f"{stream.name}.pt.o7"
    assert messages[7].headers["Nats-Msg-Id"] == "order-7"
    assert messages[7].data == b'{"n":7,"shop":{"country":"pt"}}'
    assert [message.subject.rpartition(".o")[2] for message in messages[:2000]] == [str(n) for n in range(2000)]
    assert messages[2000].data == b"\x00\xff"


async def test_value_with_an_id_is_stored_once(stream: Stream) -> None:
    """It may be written again, such as after a redelivery."""
    sink = JetStreamSink(stream.server.url, f"{stream.name}.new", id=lambda value: value["n"])

    errors = await written(sink, {"n": 1}, {"n": 2}, {"n": 1})
    errors += await written(sink, {"n": 2}, {"n": 3})

    assert errors == [None] * 5
    assert [message.headers["Nats-Msg-Id"] for message in await stream.messages()] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"n": 1}, InvalidItem),
        ({"n": 1, "to": ""}, InvalidItem),
        ({"n": 1, "to": None}, InvalidItem),
        ({"n": "a\nb", "to": "x"}, InvalidItem),
        ({"n": " 1", "to": "x"}, InvalidItem),
        ({"n": "", "to": "x"}, InvalidItem),
        ({"n": None, "to": "x"}, InvalidItem),
        ({"n": 1, "to": "x", "price": float("nan")}, EncodingFailed),
        ({"n": 1, "to": "x", "text": "x" * 2_000_000}, SinkWriteFailed),
    ],
)
async def test_invalid_value_fails_alone(stream: Stream, value: Any, error: type[Exception]) -> None:
    """The others are published."""
    sink = JetStreamSink(stream.server.url, f"{stream.name}.{{to}}", id="value.n")

    errors = await written(sink, {"n": 0, "to": "x"}, value, {"n": 2, "to": "x"})

    assert [type(each) for each in errors] == [type(None), error, type(None)]
    assert len(await stream.messages()) == 2


async def test_value_that_the_server_rejects_fails_alone(nats_server: NatsServer) -> None:
    """With what the server says: the stream is full."""
    async with new_stream(nats_server, max_msgs=2, discard="new") as stream:
        errors = await written(JetStreamSink(nats_server.url, f"{stream.name}.new"), 1, 2, 3)

    assert errors[:2] == [None, None]
    assert "maximum messages exceeded" in str(errors[2])


async def test_values_fail_without_a_stream_for_the_subject(stream: Stream) -> None:
    """The message says what to do."""
    errors = await written(JetStreamSink(stream.server.url, "no.such.stream"), 1)

    assert "no stream has the subject" in str(errors[0])


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("pt", "pt"),
        ("a.b", "a%2Eb"),
        ("*", "%2A"),
        (">", "%3E"),
        ("a b", "a%20b"),
        ("%2E", "%252E"),
        ("$JS", "%24JS"),
        ("é\r\n", "%C3%A9%0D%0A"),
        (True, "true"),
        (-7, "-7"),
    ],
)
def test_field_selects_no_other_subject(text: Any, token: str) -> None:
    """Its text is always one token; different texts are different tokens."""
    assert SubjectTemplate("orders.{to}.new").render({"to": text}) == f"orders.{token}.new"


@pytest.mark.parametrize(
    "subject", ["", "a b", "a..b", ".a", "a.", "a.*", "a.>", "{", "{}", "{a b}", "$JS.API.STREAM.DELETE.{n}"]
)
def test_invalid_subjects_are_rejected(subject: str) -> None:
    """When the sink is made."""
    with pytest.raises(FlowDefinitionError, match="subject"):
        JetStreamSink("nats://localhost", subject)


def test_variables_are_a_part_of_the_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have several tokens, unlike fields. A subject with variables is checked when it is opened."""
    monkeypatch.setenv("REGION", "eu.west")
    assert SubjectTemplate("${REGION}.{n}").render({"n": "a.b"}) == "eu.west.a%2Eb"
    monkeypatch.setenv("REGION", "eu.*")
    JetStreamSink("nats://localhost", "${REGION}.{n}")
    with pytest.raises(FlowDefinitionError):
        SubjectTemplate("${REGION}.{n}")


def test_ids_stay_different() -> None:
    """Integers and text; the rest is rejected."""
    assert [message_id(each) for each in (7, "a b", "ü")] == ["7", "a b", "ü"]
    for each in (True, 1.5, [], b"x"):
        with pytest.raises(InvalidItem):
            message_id(each)


async def test_flow_waits_for_a_server_that_is_down(nats_server: NatsServer) -> None:
    """Also one that is down when the sink opens. The source pauses within its window; nothing fails or is lost."""
    async with new_stream(nats_server) as stream:
        read = 0

        async def numbers(count: int) -> Any:
            nonlocal read
            for number in range(count):
                read += 1
                yield number
                if number >= 8:
                    await asyncio.sleep(0)

        def started(id: str | None, count: int) -> Any:
            sink = JetStreamSink(nats_server.url, f"{stream.name}.new", id=id)
            return (
                Flow[Any]("f")
                .window(8)
                .to(sink, timeout=5)
                .start(from_async_iterable(numbers(count)), DiscardResults())
            )

        await asyncio.to_thread(nats_server.kill)
        with capture_logs() as logs:
            waiting = started("'a' + string(value)", 50)
            await until_async(lambda: waiting.awaited_service is not None)
            assert read == 8
            await asyncio.to_thread(nats_server.start)
            first = await asyncio.wait_for(waiting.finished, HANG_SECONDS)
        assert (first.ok, first.failed) == (50, 0)
        assert [entry["event"] for entry in logs if entry["event"].startswith("sink.")].count("sink.reachable") == 1

        busy = started("'b' + string(value)", 20_000)
        await until_async(lambda: busy.ledger.settled[Outcome.OK] > 1000)
        await asyncio.to_thread(nats_server.kill)
        await until_async(lambda: busy.awaited_service is not None)
        assert busy.ledger.settled[Outcome.OK] < 20_000, "the server was killed too late"
        await asyncio.to_thread(nats_server.start)
        await until_async(lambda: busy.awaited_service is None)
        busy.drain()
        second = await asyncio.wait_for(busy.finished, HANG_SECONDS)
        assert (second.failed, second.cancelled) == (0, 0)
        await until_async(lambda: stream.client.is_connected)
        stored = [message.headers["Nats-Msg-Id"] for message in await stream.messages()]

    assert sorted(stored) == sorted([*(f"a{n}" for n in range(50)), *(f"b{n}" for n in range(second.ok))])


@pytest.mark.long
async def test_killed_server_loses_no_value_and_stores_each_once(nats_server: NatsServer) -> None:
    """From one stream to another, with ids: what was published and not acknowledged is published again."""
    async with new_stream(nats_server) as stream, new_stream(nats_server) as target:
        await stream.publish_numbers(4000)
        source = JetStreamSource(nats_server.url, stream.name, "work", ack_wait=3)
        sink = JetStreamSink(nats_server.url, f"{target.name}.done", id="value.n")
        seen: list[Any] = []

        async def work(value: Any) -> Any:
            await asyncio.sleep(0.01)
            return value

        flow = Flow[Any]("f").map_async(work, max_in_flight=32).to(sink).tap(seen.append)
        run = flow.start(source, DiscardResults())
        await until_async(lambda: len(seen) > 800)
        await asyncio.to_thread(nats_server.restart)
        assert len(seen) < 4000, "the server was killed too late"
        await until_async(lambda: len({value["n"] for value in seen}) == 4000)
        run.drain()
        summary = await asyncio.wait_for(run.finished, HANG_SECONDS)
        stored = await target.messages()

    assert summary.failed == 0
    assert sorted(int(message.headers["Nats-Msg-Id"]) for message in stored) == list(range(4000))


@pytest.mark.long
async def test_value_without_an_id_fails_when_its_acknowledgement_is_lost(nats_server: NatsServer) -> None:
    """It may be stored; to publish it again could store it twice."""
    async with new_stream(nats_server) as stream:
        flow = Flow[Any]("f").window(512).to(JetStreamSink(nats_server.url, f"{stream.name}.new"))
        results: list[Any] = []

        async def collect() -> None:
            async for result in flow.stream(from_iterable(range(6000))):
                results.append(result)  # noqa: PERF401 - they are counted as they arrive

        collecting = asyncio.create_task(collect())
        await until_async(lambda: len(results) > 600)
        await asyncio.to_thread(nats_server.restart)
        assert len(results) < 6000, "the server was killed too late"
        await asyncio.wait_for(collecting, HANG_SECONDS)
        await until_async(lambda: stream.client.is_connected)
        stored = (await stream.jetstream.stream_info(stream.name)).state.messages

    failed = [result.failure.message for result in results if not result.ok]
    assert 0 < len(failed) <= 512
    assert {message.partition("; ")[2] for message in failed} == {"the message may be stored"}
    assert 6000 - len(failed) <= stored <= 6000
