"""The questions of processes that the parent answers, and those to all processes that it passes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import structlog
from msgspec import msgpack

from penstock.errors import describe
from penstock_http.processes.child import Child, State
from penstock_http.processes.member import ASK
from penstock_http.processes.messages import Ask
from penstock_http.processes.peers import NoAnswer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Handler: TypeAlias = "Callable[[int, bytes], Awaitable[bytes]]"
"""Answers a question: takes the number of the process and the payload, and returns the payload of the answer."""


class Questions:
    """The handlers of the parent, by topic, and the `children` that a question of one of them goes to."""

    def __init__(self, children: Mapping[int, Child]) -> None:
        self._children = children
        self._handlers: dict[str, Handler] = {ASK: self._ask}

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions about a topic with a handler. A topic has one handler."""
        assert topic not in self._handlers, topic
        self._handlers[topic] = handler

    async def answer(self, number: int, topic: str, payload: bytes) -> bytes | None:
        """Answer a question of a process. Returns None, and logs the error, if the handler raises one."""
        handler = self._handlers.get(topic)
        if handler is None:
            log.warning("process.unknown_topic", topic=topic, process=number)
            return None
        try:
            return await handler(number, payload)
        except Exception as error:
            log.error("process.answer_failed", topic=topic, error=describe(error), exc_info=error)
            return None

    async def _ask(self, _: int, payload: bytes) -> bytes:
        """Ask all processes a question of one of them."""
        question = msgpack.decode(payload, type=Ask)
        return await _ask_all(question, [child for child in self._children.values() if child.serves])


def serving(children: Mapping[int, Child]) -> list[Child]:
    """Return the processes that serve, by number, without those that are starting or being retired."""
    return [child for _, child in sorted(children.items()) if child.state is State.SERVING]


async def _ask_all(question: Ask, children: Sequence[Child]) -> bytes:
    async def ask(child: Child) -> bytes | None:
        try:
            return await child.call(question.topic, question.payload, question.timeout)
        except NoAnswer:
            return None

    answers = await asyncio.gather(*(ask(child) for child in children))
    return msgpack.encode({child.number: answer for child, answer in zip(children, answers, strict=True)})
