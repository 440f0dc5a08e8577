"""Several processes of a service in one event loop: a parent and its processes, connected without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import msgpack

from penstock_http.processes.deployment_messages import HERE, Command, Reply
from penstock_http.processes.peers import NoAnswer, Topics


class LocalParent:
    """Passes questions on, as the parent of real processes does. A process that is `frozen` answers nothing."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.exclusive = asyncio.Lock()
        self.reloading = False
        self.processes: dict[int, LocalPeers] = {}
        self.running: list[int] = []
        self.frozen: set[int] = set()
        self.rejections: dict[int, int] = {}
        """How often a process will reject a deployment that it has validated."""
        self.gates: dict[int, asyncio.Event] = {}
        """What a process waits for before it deploys."""
        self.killed: dict[int, str] = {}
        self._handlers: dict[str, Callable[[int, bytes], Awaitable[bytes]]] = {}
        self._ready_callbacks: list[Callable[[int], object]] = []

    def on(self, topic: str, handler: Callable[[int, bytes], Awaitable[bytes]]) -> None:
        """Answer questions of processes."""
        self._handlers[topic] = handler

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """Processes of this parent do not exit."""

    def on_ready(self, callback: Callable[[int], object]) -> None:
        """Call back with each process that serves."""
        self._ready_callbacks.append(callback)

    def ready(self, number: int) -> None:
        """Note that a process serves."""
        self.running.append(number)
        for callback in self._ready_callbacks:
            callback(number)

    async def tell(self, number: int, topic: str, payload: bytes = b"", timeout: float = 1.0) -> bytes:
        """Ask one process. The timeout of a frozen one is not waited for."""
        if topic == HERE and not msgpack.decode(payload, type=Command).dry_run:
            if number in self.gates:
                await self.gates[number].wait()
            if self.rejections.get(number):
                self.rejections[number] -= 1
                return msgpack.encode(Reply(accepted=False))
        answer = None if number in self.frozen else await self.processes[number].topics.answer(topic, payload)
        if answer is None:
            raise NoAnswer(topic)
        return answer

    def kill(self, number: int, reason: str) -> None:
        """Note that a process is killed. A test starts it again."""
        self.killed[number] = reason
        self.running.remove(number)

    async def answer(self, number: int, topic: str, payload: bytes) -> bytes:
        """Answer a question of a process."""
        if topic not in self._handlers:
            raise NoAnswer(topic)
        return await self._handlers[topic](number, payload)

    def process(self, number: int) -> LocalPeers:
        """Return a process that starts, as it sees itself."""
        self.processes[number] = LocalPeers(self, number)
        return self.processes[number]


class LocalPeers:
    """All processes, as one of them sees them."""

    def __init__(self, parent: LocalParent, number: int) -> None:
        self.number = number
        self.topics = Topics()
        self._parent = parent

    @property
    def count(self) -> int:
        """How many processes serve."""
        return self._parent.count

    async def ask(self, topic: str, payload: bytes = b"", **_: Any) -> dict[int, bytes | None]:
        """Ask every process that serves."""
        numbers = self._parent.running
        answers = await asyncio.gather(
            *(self._parent.tell(number, topic, payload) for number in numbers), return_exceptions=True
        )
        return {n: None if isinstance(a, BaseException) else a for n, a in zip(numbers, answers, strict=True)}

    async def ask_parent(self, topic: str, payload: bytes = b"", **_: Any) -> bytes:
        """Ask the parent."""
        return await self._parent.answer(self.number, topic, payload)

    def on(self, topic: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer questions of all processes and of the parent."""
        self.topics.on(topic, handler)
