"""A broker in memory: it leases messages for a time, takes answers and delivers again what was not done."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.core.leases import Answer, Leases
from penstock.sources import Emitter, Source


@dataclass(eq=False)
class Message:
    """One delivery of a message."""

    number: int
    delivery: int
    expires_at: float


@dataclass
class Broker:
    """Messages 0 … `total` - 1. A lease expires after `lease_seconds`; then the message is delivered again."""

    total: int
    lease_seconds: float = 30.0
    waiting: deque[int] = field(default_factory=deque[int])
    deliveries: Counter[int] = field(default_factory=Counter[int])
    leased: dict[Message, Answer | None] = field(default_factory=dict[Message, "Answer | None"])
    """All leases that were ever given, with their answers."""
    done: Counter[int] = field(default_factory=Counter[int])
    expired: int = 0
    answered_twice: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.waiting.extend(range(self.total))

    def lease(self, limit: int) -> list[Message]:
        """Give leases of up to `limit` messages."""
        self.expire()
        now = asyncio.get_running_loop().time()
        given: list[Message] = []
        while self.waiting and len(given) < limit:
            number = self.waiting.popleft()
            self.deliveries[number] += 1
            given.append(Message(number, self.deliveries[number], now + self.lease_seconds))
        self.leased |= dict.fromkeys(given)
        return given

    def extend(self, messages: Sequence[Message]) -> None:
        """Extend leases."""
        for message in messages:
            message.expires_at = asyncio.get_running_loop().time() + self.lease_seconds

    def answer(self, message: Message, answer: Answer) -> None:
        """Take an answer."""
        self.expire()
        self.answered_twice += self.leased[message] is not None
        self.leased[message] = answer
        if answer is Answer.DONE:
            self.done[message.number] += 1
        else:
            self.waiting.append(message.number)
            self.arrived.set()

    def expire(self) -> None:
        """Deliver again what was leased for too long."""
        now = asyncio.get_running_loop().time()
        for message, answer in self.leased.items():
            if answer is None and message.expires_at < now:
                self.expired += 1
                message.expires_at = float("inf")


class BrokerSource(Source[int]):
    """Takes messages from a broker as credits allow, until each is done; then ends. Its lessor is its own."""

    name = "broker"

    def __init__(self, broker: Broker, *, deliveries: int = 5, redeliver: bool = False) -> None:
        super().__init__()
        self.broker = broker
        self.deliveries = deliveries
        self.redeliver = redeliver
        self.registered = 0
        self.closed = 0
        self.settled: list[tuple[Message, Answer]] = []
        self._stopped = False

    async def produce(self, emitter: Emitter[int]) -> None:
        leases = emitter.lease_from(self, redeliver=self.redeliver)
        self.registered += 1
        emitter.on_stop(self._stop)
        emitter.spawn(self._extend(leases), "heartbeat")
        while not self._stopped and sum(self.broker.done.values()) < self.broker.total:
            messages = self.broker.lease(min(await emitter.wait_for_capacity(), 16))
            good = [message for message in messages if message.delivery <= self.deliveries]
            await emitter.send([message.number for message in good], leases=good)
            for message in messages:
                if message.delivery > self.deliveries:
                    await emitter.refuse(message.number, message, Poisoned())
            if not messages:
                await asyncio.sleep(0.01)

    async def _extend(self, leases: Leases[Message]) -> None:
        while True:
            await asyncio.sleep(self.broker.lease_seconds / 3)
            self.broker.extend(leases.open)

    def _stop(self) -> None:
        self._stopped = True

    def settle(self, answers: Sequence[tuple[Message, Answer]]) -> None:
        for message, answer in answers:
            self.broker.answer(message, answer)
        self.settled += answers

    def origin(self, lease: Message) -> str:
        return f"fake/{lease.number}"

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.closed += 1


class Poisoned(Exception):
    """The message was delivered too often."""
