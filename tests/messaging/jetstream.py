"""Streams for tests of JetStream sources and sinks, and a worker to run in a process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
from nats.js import api
from nats.js.errors import NotFoundError

import forking
from servers import NatsServer, new_name
from waiting import HANG_SECONDS, end

WORKER = """
import asyncio, os, signal, sys
from penstock import Flow
from penstock.results import DiscardResults
from penstock.sources import JetStreamSource

url, stream, durable, ack_wait, seconds, width, output = sys.argv[1:8]
out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def work(value):
    await asyncio.sleep(float(seconds))
    return value

def note(value):
    os.write(out, b"%7d\\n" % value["n"])

async def main():
    source = JetStreamSource(url, stream, durable, ack_wait=float(ack_wait))
    flow = Flow("worker").window(256).map_async(work, max_in_flight=int(width)).tap(note)
    run = flow.start(source, DiscardResults())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, run.drain)
    loop.add_reader(0, os._exit, 3)  # the process of the test has ended
    print("started", flush=True)
    summary = await run.finished
    print(summary.reason, summary.ok, summary.cancelled, flush=True)

asyncio.run(main())
"""


class Stream:
    """A stream with messages `{"n": 0}`, `{"n": 1}` …"""

    def __init__(self, server: NatsServer, client: Any) -> None:
        self.server = server
        self.client = client
        self.jetstream = client.jetstream(timeout=10)
        self.name = new_name()

    async def create(self, **config: Any) -> Stream:
        """Create the stream, with subjects that begin with its name."""
        await self.jetstream.add_stream(api.StreamConfig(name=self.name, subjects=[f"{self.name}.>"], **config))
        return self

    async def publish(self, *payloads: bytes, subject: str = "new") -> None:
        """Publish messages and wait until they are stored."""
        for start in range(0, len(payloads), 500):
            futures = [
                await self.jetstream.publish_async(f"{self.name}.{subject}", payload)
                for payload in payloads[start : start + 500]
            ]
            await asyncio.gather(*futures)

    async def publish_numbers(self, count: int) -> None:
        """Publish numbered messages."""
        await self.publish(*[b'{"n":%d}' % number for number in range(count)])

    async def consumer(self, durable: str) -> api.ConsumerInfo:
        """Return the state of a consumer."""
        info: api.ConsumerInfo = await self.jetstream.consumer_info(self.name, durable)
        return info

    async def wait_for_workers(self, count: int) -> None:
        """Wait until workers are waiting for messages."""
        async with asyncio.timeout(HANG_SECONDS):
            while True:
                with suppress(NotFoundError):
                    if ((await self.consumer("work")).num_waiting or 0) >= count:
                        return
                await asyncio.sleep(0.05)

    async def messages(self) -> list[Any]:
        """Read all messages of the stream."""
        state = (await self.jetstream.stream_info(self.name)).state
        found: list[Any] = []
        if state.messages:
            config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE)
            subscription = await self.jetstream.pull_subscribe("", new_name(), stream=self.name, config=config)
            while len(found) < state.messages:
                found += await subscription.fetch(500, timeout=5)
        return found


@asynccontextmanager
async def new_stream(server: NatsServer, **config: Any) -> AsyncIterator[Stream]:
    """Create a stream for a test."""
    client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
    try:
        yield await Stream(server, client).create(**config)
    finally:
        await client.close()


class Worker:
    """A process that receives messages of a stream, works on each for a while, and then notes its number in a file."""

    def __init__(
        self,
        stream: Stream,
        output: Path,
        *,
        ack_wait: float = 3.0,
        seconds: float = 0.01,
        width: int = 128,
    ) -> None:
        self.output = output
        arguments = [stream.server.url, stream.name, "work", str(ack_wait), str(seconds), str(width), str(output)]
        self.process = forking.start_python(
            *("-c", WORKER, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def numbers(self) -> Counter[int]:
        """Return how often each number was noted."""
        return Counter(map(int, self.output.read_text().split())) if self.output.exists() else Counter()

    def size(self) -> int:
        """Return how many numbers were noted."""
        return self.output.stat().st_size // 8 if self.output.exists() else 0

    def kill(self) -> None:
        """Kill the process."""
        end(self.process)

    def terminate(self) -> str:
        """Send SIGTERM and return the last line that the process prints."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        assert self.process.wait(30) == 0
        end(self.process)
        return output.splitlines()[-1]
