"""Kills of servers and of consumers of logs: what was reported exists, and what was not acknowledged comes again."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import aclosing
from typing import Any

import pytest
from structlog.testing import capture_logs

import forking
from penstock import Flow, from_iterable
from penstock.core.element import Element
from penstock.deadletters import create_store
from penstock.errors import StoreError
from penstock.results import ResultConsumer
from servers import Server
from stores.letters import letter
from stores.logs import consume, ids, new_log, open_log, read
from waiting import HANG_SECONDS, end, until_async

pytestmark = pytest.mark.long

ITEMS = 3000


def refuse(value: Any) -> Any:
    """A step that fails."""
    raise ValueError(f"no {value}")


class ReportedIds(ResultConsumer):
    """Collects the ids of letters that a client would have been told."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def on_next(self, value: list[Element[Any]]) -> None:
        """Take results."""
        self.ids += [element.dead_letter_id for element in value if element.dead_letter_id is not None]
        self.context.ledger.settle_accepted(value)


@pytest.fixture(params=["s3", "durable_kafka", "nats"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server that keeps its data when it is killed."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


async def test_a_killed_server_has_every_letter_that_was_reported(server: Server) -> None:
    """In the middle of a run; the run waits until the server is back, and goes on with the same letters."""
    url = new_log(server)
    reported = ReportedIds()
    with capture_logs() as logs:
        run = Flow[Any]("f").window(64).map(refuse).dead_letters(url).start(from_iterable(range(ITEMS)), reported)
        await until_async(lambda: len(reported.ids) > ITEMS / 10)
        await asyncio.to_thread(server.kill)
        before = len(reported.ids)
        await asyncio.sleep(1)
        assert len(reported.ids) - before <= 64
        await asyncio.to_thread(server.start)
        summary = await asyncio.wait_for(run.finished, HANG_SECONDS * 2)

    assert before < ITEMS, "the server was killed too late"
    assert (summary.reason, summary.failed) == ("completed", ITEMS)
    store = await open_log(url)
    stored = await read(store, limit=1000)
    await store.aclose()
    assert len(set(reported.ids)) == ITEMS
    assert set(reported.ids) <= set(ids(stored))
    assert len(stored) == ITEMS
    assert not [each for each in logs if each["event"] == "store.record_skipped"]


async def test_a_store_recovers_and_says_meanwhile_why_it_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readiness shows the problem; it ends without a letter, because the store checks."""
    monkeypatch.setattr("penstock.deadletters.log_base.CHECK_SECONDS", 0.2)
    store: Any = create_store(new_log(server))
    store.timeout = 3.0
    await store.open()
    await store.add([letter()])
    await asyncio.to_thread(server.kill)
    one = letter()
    with pytest.raises(StoreError, match=r"dead-letter store (s3|kafka|nats)://"):
        await asyncio.wait_for(store.add([one]), HANG_SECONDS)
    problem = store.problem()
    assert problem is not None
    assert not problem.error.permanent
    await asyncio.to_thread(server.start)

    async with asyncio.timeout(HANG_SECONDS):
        while store.problem() is not None:
            await asyncio.sleep(0.1)

    await store.add([one])
    assert one.id in ids(await read(store))
    assert store.statistics().failures >= 1
    await store.aclose()


async def test_letters_that_a_consumer_has_open_survive_a_kill_of_the_server(server: Server) -> None:
    """Its consumer fails or goes on; the next one receives what was not acknowledged."""
    store = await open_log(new_log(server))
    letters = [letter(seq=seq, flow=f"f{seq % 3}", key=seq) for seq in range(60)]
    for start in range(0, 60, 20):
        await store.add(letters[start : start + 20])
    received: list[Any] = []
    try:
        async with asyncio.timeout(HANG_SECONDS), aclosing(store.consume()) as batches:
            async for batch in batches:
                if not received:
                    await asyncio.to_thread(server.restart)
                received += batch.letters
                await batch.ack()
    except StoreError:
        pass
    await store.aclose()
    store = await open_log(store.url)
    async with asyncio.timeout(HANG_SECONDS * 2):
        while not set(ids(letters)) <= set(ids(received)):
            received += await consume(store)
            await asyncio.sleep(1)
    await store.aclose()


CONSUMER = """
import asyncio, sys
from penstock.deadletters import create_store

async def main():
    store = create_store(sys.argv[1])
    await store.open()
    count = 0
    async for batch in store.consume():
        for each in batch.letters:
            print(each.id, flush=True)
        if count:
            print("killed", flush=True)
            await asyncio.sleep(999)
        await batch.ack()
        print("acknowledged", flush=True)
        count += 1
    print("killed", flush=True)
    await asyncio.sleep(999)

asyncio.run(main())
"""


async def test_a_killed_consumer_loses_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that it has acknowledged do not come again, the others do when its leases have expired."""
    urls = [new_log(request.getfixturevalue(f"{name}_server")) for name in ("s3", "durable_kafka", "nats")]

    async def one(url: str) -> None:
        store = await open_log(url)
        letters = [letter(seq=seq, key=seq) for seq in range(1500)]
        for start in range(0, 1500, 300):
            await store.add(letters[start : start + 300])
        lines = await asyncio.to_thread(kill_consumer, url)
        done = set(lines[: lines.index("acknowledged")])
        assert done
        rest: list[Any] = []
        async with asyncio.timeout(HANG_SECONDS * 2):
            while len(rest) < 1500 - len(done):
                rest += await consume(store)
                await asyncio.sleep(1)
        assert set(ids(rest)) == {each.id for each in letters} - done
        await store.aclose()

    await asyncio.gather(*map(one, urls))


def kill_consumer(url: str) -> list[str]:
    """Run a consumer in a process until it has an open batch, and kill it."""
    process = forking.start_python("-c", CONSUMER, url, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1] == "killed":
                break
    finally:
        end(process)
    return lines
