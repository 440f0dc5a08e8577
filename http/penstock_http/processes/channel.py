"""The channel between the parent and one process. Both sides ask questions, and answer those of the other side."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import structlog

from penstock_http.processes.messages import Answer, FrameTooLarge, Question, decode_frames, encode_frame
from penstock_http.processes.peers import ASK_SECONDS, NoAnswer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_BUFFERED = 32 * 1024 * 1024
"""Bytes that wait for the other side. If it reads nothing, further messages are not sent."""

MAX_OPEN = 1000
"""Maximum number of questions that wait for their answers."""


class Channel(asyncio.Protocol):
    """One end of the channel.

    `answer` is called with the topic and the payload of each question, and returns the answer; None if it failed.
    """

    def __init__(self, answer: Callable[[str, bytes], Awaitable[bytes | None]]) -> None:
        self.closed = asyncio.Event()
        """Set when the other side is gone, or when this side is closed."""
        self._answer = answer
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Future[bytes | None]] = {}
        """The questions that wait for their answers."""
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, connection: socket.socket) -> None:
        """Use a connected socket. The channel closes it."""
        await asyncio.get_running_loop().create_connection(lambda: self, sock=connection)

    async def call(self, topic: str, payload: bytes = b"", timeout: float | None = ASK_SECONDS) -> bytes:
        """Ask the other side.

        Raises `NoAnswer` after `timeout` seconds, if the other side is gone or reads nothing, or if it has no answer.
        """
        if len(self._open) >= MAX_OPEN:
            raise NoAnswer(f"{topic}: {MAX_OPEN} questions wait for their answers")
        id = next(self._ids)
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._open[id] = answer
        try:
            self._send(Question(id, topic, payload))
            async with asyncio.timeout(timeout):
                found = await answer
        except TimeoutError:
            raise NoAnswer(f"{topic}: the other process has not answered within {timeout:g} s") from None
        finally:
            self._open.pop(id, None)
        if found is None:
            raise NoAnswer(f"{topic}: the other process is gone or could not answer")
        return found

    def send(self, message: bytes) -> None:
        """Send a frame."""
        assert self._transport is not None
        self._transport.write(message)

    def close(self) -> None:
        """Close the channel. Data that was not sent is lost."""
        if self._transport is None:
            self.closed.set()
        else:
            self._transport.abort()
        for task in self._answering:
            task.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to use the socket."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Handle messages."""
        self._received += data
        try:
            messages = decode_frames(self._received)
        except ValueError as error:
            log.error("process.invalid_message", error=str(error))
            self.close()
            return
        for message in messages:
            if isinstance(message, Answer):
                waiting = self._open.get(message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message.payload)
            else:
                name = f"answer:{message.topic}"
                task = asyncio.get_running_loop().create_task(self._reply(message), name=name)
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all open questions."""
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_result(None)
        self.closed.set()

    async def _reply(self, question: Question) -> None:
        payload = await self._answer(question.topic, question.payload)
        if not question.id:
            return
        try:
            self._send(Answer(question.id, payload))
        except NoAnswer as error:
            log.warning("process.answer_not_sent", topic=question.topic, error=str(error))
            with suppress(NoAnswer):  # if it was too large, the other side need not wait for it
                self._send(Answer(question.id, None))

    def _send(self, message: Question | Answer) -> None:
        if self._transport is None or self._transport.is_closing():
            raise NoAnswer("the other process is gone")
        if self._transport.get_write_buffer_size() > MAX_BUFFERED:
            raise NoAnswer(f"the other process reads nothing; {MAX_BUFFERED} bytes wait for it")
        try:
            self._transport.write(encode_frame(message))
        except FrameTooLarge as error:
            raise NoAnswer(str(error)) from error
