"""Connections to NATS that are given up."""

import asyncio

import pytest

from penstock.backends.nats import connect


@pytest.mark.parametrize("greeting", [b"", b"INFO {}\r\n"], ids=["silent", "without PONG"])
async def test_an_attempt_to_connect_that_is_cancelled_closes_its_socket(greeting):
    """Otherwise it stays open until it is collected as garbage, maybe after the event loop has ended."""
    opened, closed = asyncio.Event(), asyncio.Event()

    async def accept(reader, writer):
        writer.write(greeting)
        opened.set()
        while await reader.read(1000):
            pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(connect([f"127.0.0.1:{port}"], None, None, {}, lambda: None))
        await opened.wait()
        await asyncio.sleep(0.1)  # the client reads the greeting
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await closed.wait()
