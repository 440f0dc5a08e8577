"""Waiting in tests: for events with one generous limit, and for the end of every process that a test started."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

HANG_SECONDS = 60.0
"""A wait that takes this long hangs. It is no measure of speed: on a busy machine everything takes ten times longer."""


def until(condition: Callable[[], Any], timeout: float = HANG_SECONDS, period: float = 0.02) -> Any:
    """The value of a condition, as soon as it is true. Raises `AssertionError` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s; the last value was {found!r}")
        time.sleep(period)
    return found


async def until_async(condition: Callable[[], Any], timeout: float = HANG_SECONDS, period: float = 0.002) -> Any:
    """The same in an event loop."""
    async with asyncio.timeout(timeout):
        while not (found := condition()):
            await asyncio.sleep(period)
    return found


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process that is still running, wait for it, and close its pipes."""
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # data for a process that is gone
                pipe.close()
    process.wait()


@contextmanager
def ending(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """End a process with the block."""
    try:
        yield process
    finally:
        end(process)


@asynccontextmanager
async def ending_async(process: asyncio.subprocess.Process) -> AsyncIterator[asyncio.subprocess.Process]:
    """End a process of asyncio with the block."""
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
