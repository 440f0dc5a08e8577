"""One process, as the parent sees it: its start, its channel, and its exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum, auto

from msgspec import msgpack

from penstock.deadletters.sqlite.writer_subprocess import module_paths
from penstock_http.processes.channel import Channel
from penstock_http.processes.member import FAILED, PING, READY, REPORT
from penstock_http.processes.messages import Failed, Start, encode_frame
from penstock_http.processes.peers import NoAnswer

START_SECONDS = 180.0
"""Timeout of the start of a process: its imports, and one minute for its flows."""

LAST_MESSAGE_SECONDS = 1.0
"""Seconds in which the end of its socket is noticed, after the exit of a process."""


class State(Enum):
    """What a process does."""

    STARTING = auto()
    SERVING = auto()
    RETIRING = auto()
    """It finishes what is open; another process has replaced it."""
    DOWN = auto()
    """It has exited."""


class Child:
    """One process from its start to its exit.

    `answer` answers its questions: it gets the number of the process, the topic and the payload.
    """

    def __init__(self, number: int, answer: Callable[[int, str, bytes], Awaitable[bytes | None]]) -> None:
        self.number = number
        self.state = State.STARTING
        self.pid = 0
        self.code: int | None = None
        """The exit code, negative for a signal; None while it runs."""
        self.killed = ""
        """Why the parent killed it; empty if it did not."""
        self.failed: Failed | None = None
        """The error that prevented its start, if it reported one."""
        self.report: bytes | None = None
        """The report of its shutdown."""
        self.retired = False
        """Whether another process has replaced it, so that it is not started again."""
        self.started_at = 0.0
        self.connected = False
        """Whether its event loop runs, so that it must answer pings: it loads flows, or serves."""
        self.silent = 0.0
        """Seconds for which it has not answered."""
        self._answer = answer
        self._process: asyncio.subprocess.Process | None = None
        self._channel = Channel(self._handle)
        self._ready = asyncio.Event()
        self._exited = asyncio.Event()
        self._ping: asyncio.Task[bool] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def serves(self) -> bool:
        """Whether it serves, possibly for the last time."""
        return self.state in (State.SERVING, State.RETIRING)

    async def spawn(self, module: str, start: Start, descriptors: Sequence[int]) -> None:
        """Start the process, and pass it descriptors. Raises `OSError` if the system cannot start any."""
        if not sys.executable or hasattr(sys, "frozen"):  # a frozen program would start itself
            raise OSError(0, "there is no Python interpreter to run it")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-P", "-m", module, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches only the parent, which forwards it
                    pass_fds=(theirs.fileno(), *descriptors),
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(module_paths())},
                )
            except BaseException:
                ours.close()
                raise
        self.pid = self._process.pid
        self.started_at = asyncio.get_running_loop().time()
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name=f"process:{self.number}:exit")
        ours.setblocking(False)
        await self._channel.open(ours)
        self._channel.send(encode_frame(start))
        if self.killed:  # meanwhile
            self.signal(signal.SIGKILL)

    async def wait_ready(self) -> bool:
        """Wait until it serves. Returns False if it exits before that, or takes too long."""
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(event.wait()) for event in (self._ready, self._exited)]
        try:
            await asyncio.wait(waits, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.state is State.STARTING:
            self.kill(f"it was not ready within {START_SECONDS:g} s")
            await self.wait()
        return self.state is State.SERVING

    def fail(self, reason: str) -> None:
        """Note that it could not be started."""
        self.failed = Failed(1, reason)
        self._end(-1)

    def retire(self) -> None:
        """Note that another process replaces it."""
        self.retired = True
        if self.state is State.SERVING:
            self.state = State.RETIRING

    async def call(self, topic: str, payload: bytes = b"", timeout: float | None = None) -> bytes:
        """Ask it. Raises `NoAnswer`."""
        return await self._channel.call(topic, payload, timeout)

    def ping(self, seconds: float) -> float:
        """Check whether its event loop runs; to be called every `seconds`. Returns for how long it has been silent.

        Counts calls instead of reading the clock, so that a pause of the parent is not held against a process.
        """
        if self._ping is None or (self._ping.done() and self._ping.result()):
            self.silent = 0.0
        else:
            self.silent += seconds
        if self._ping is None or self._ping.done():
            self._ping = asyncio.get_running_loop().create_task(self._answers(), name=f"process:{self.number}:ping")
        return self.silent

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has exited.

        Not with `Process.send_signal`: that polls, and may take the exit code away from asyncio.
        """
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self, reason: str) -> None:
        """Kill it with SIGKILL, now or as soon as it has a process."""
        if self.state is not State.DOWN:
            self.killed = self.killed or reason
            self.signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Wait until it has exited."""
        await self._exited.wait()

    async def _answers(self) -> bool:
        try:
            await self._channel.call(PING, timeout=None)
        except NoAnswer:  # it does not even read
            return False
        return True

    async def _handle(self, topic: str, payload: bytes) -> bytes | None:
        self.connected = topic != FAILED
        if topic == READY:
            if self.state is State.STARTING:
                self.state = State.SERVING
            self._ready.set()
        elif topic == FAILED:
            self.failed = msgpack.decode(payload, type=Failed)
        elif topic == REPORT:
            self.report = payload
        else:
            return await self._answer(self.number, topic, payload)
        return b""

    async def _watch(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        with suppress(TimeoutError):  # its last messages; the end of its socket follows them
            async with asyncio.timeout(LAST_MESSAGE_SECONDS):
                await self._channel.closed.wait()
        self._end(code)

    def _end(self, code: int) -> None:
        self.code = code
        self.connected = False
        self.state = State.DOWN
        self._channel.close()
        if self._ping is not None:
            self._ping.cancel()
        self._exited.set()


def exit_text(code: int | None, killed: str) -> str:
    """Return how a process ended, for the log."""
    if killed:
        return f"killed: {killed}"
    if code is None:
        return "running"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
