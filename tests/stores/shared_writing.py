"""A process that stores letters through the hub of another one, and reports each letter that was stored."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

import forking
from penstock.deadletters.sqlite.shared_writer import LETTERS, SharedWriters
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.deadletters.sqlite.writer_hub import WriterHub
from penstock.errors import StoreError
from waiting import ending

CALLERS = 4
"""How many store letters at the same time in each process."""


@asynccontextmanager
async def sharing(number=1):
    """A hub and the connection of one process to it, both in this process."""
    hub = WriterHub()
    try:
        async with joining(hub, number) as writers:
            yield hub, writers
    finally:
        await hub.aclose()


@asynccontextmanager
async def joining(hub, number):
    """The connection of a process to a hub, in this process."""
    writers = SharedWriters(hub.attach(number)[LETTERS])
    try:
        yield writers
    finally:
        writers.close()


@contextmanager
def storing(hub, number, url, letters) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stores so many letters; its output has the id of each one, when the store has reported it."""
    descriptors = hub.attach(number)
    try:
        process = forking.start_python(
            "-m", __name__, str(descriptors[LETTERS]), url, str(letters),
            stdout=subprocess.PIPE, pass_fds=tuple(descriptors.values()),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    with ending(process):
        yield process
    hub.detach(number)


async def store(descriptor, url, letters):
    """Store letters, each until it is stored, as the failure branch does."""
    from stores.letters import letter  # the imports of a test are not those of a process that is started by one

    writers = SharedWriters(descriptor)
    opened = SqliteStore(url, make_writer=writers.make)
    await opened.open()

    async def call(count):
        while count > 0:
            batch = [letter() for _ in range(min(count, 8))]
            while True:
                try:
                    await opened.add(batch)
                    break
                except StoreError:
                    await asyncio.sleep(0.01)
            os.write(1, b"".join(f"{one.id}\n".encode() for one in batch))
            count -= len(batch)

    await asyncio.gather(*(call(letters // CALLERS) for _ in range(CALLERS)))
    await opened.aclose()
    writers.close()


if __name__ == "__main__":
    asyncio.run(store(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
