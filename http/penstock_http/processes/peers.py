"""Questions between the processes of a service. Each asks through the parent, and all of them answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import structlog

from penstock.errors import PenstockError, describe

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Handler: TypeAlias = "Callable[[bytes], Awaitable[bytes]]"
"""Answers a question: takes its payload and returns that of the answer."""

ASK_SECONDS = 1.0
"""Default timeout of a question."""


class NoAnswer(PenstockError):
    """Another process did not answer a question: it is stopped, stuck or gone, or it could not answer this one."""


class Peers(Protocol):
    """All processes of the service, as one of them sees them."""

    @property
    def number(self) -> int:
        """The number of this process, from 1; 0 if it is the only one."""
        ...

    @property
    def count(self) -> int:
        """How many processes serve (`--processes`)."""
        ...

    async def ask(self, topic: str, payload: bytes = b"", *, timeout: float = ASK_SECONDS) -> dict[int, bytes | None]:
        """Ask every process, including this one, and return the answers by number of process.

        None is the answer of a process that did not answer within `timeout` seconds, or whose handler raised an error.
        Processes that are starting are not asked. Raises `NoAnswer` if the parent is gone.
        """
        ...

    async def ask_parent(self, topic: str, payload: bytes = b"", *, timeout: float = ASK_SECONDS) -> bytes:
        """Ask the parent. Raises `NoAnswer` after `timeout` seconds, or if its handler raised an error."""
        ...

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions about a topic, of all processes and of the parent, with a handler."""
        ...


class Topics:
    """The handlers of one process, by topic."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions about a topic with a handler. A topic has one handler."""
        assert topic not in self._handlers, topic
        self._handlers[topic] = handler

    async def answer(self, topic: str, payload: bytes) -> bytes | None:
        """Answer a question. Returns None, and logs the error, if the handler raises one."""
        handler = self._handlers.get(topic)
        if handler is None:
            log.warning("process.unknown_topic", topic=topic)
            return None
        try:
            return await handler(payload)
        except Exception as error:
            log.error("process.answer_failed", topic=topic, error=describe(error), exc_info=error)
            return None


class OnlyProcess:
    """The only process of a service, as it sees itself. It has no parent."""

    number = 0
    count = 1

    def __init__(self) -> None:
        self._topics = Topics()

    async def ask(self, topic: str, payload: bytes = b"", *, timeout: float = ASK_SECONDS) -> dict[int, bytes | None]:
        """Call the handler of this process. Its number is 0."""
        try:
            async with asyncio.timeout(timeout):
                return {0: await self._topics.answer(topic, payload)}
        except TimeoutError:
            return {0: None}

    async def ask_parent(self, topic: str, payload: bytes = b"", *, timeout: float = ASK_SECONDS) -> bytes:
        """Raise `NoAnswer`."""
        raise NoAnswer(f"{topic}: the only process of a service has no parent")

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions about a topic with a handler."""
        self._topics.on(topic, handler)
