"""Which process leads: one that goes on serving, and no other one before the previous one has stopped."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from msgspec import msgpack
from structlog.testing import capture_logs

from penstock_http.processes.child import Child, State
from penstock_http.processes.lead import Lead
from penstock_http.processes.member import LEAD
from penstock_http.processes.messages import TakeLead
from penstock_http.processes.peers import NoAnswer


class Process(Child):
    """A process that answers as a test says. The higher its number, the younger it is."""

    def __init__(self, number: int) -> None:
        super().__init__(number, cast(Any, None))
        self.state = State.SERVING
        self.started_at = number
        self.answers = asyncio.Event()
        self.fails = False
        self.leads: list[bool] = []
        self.known: list[TakeLead] = []
        """The progress of the previous leader that it received."""

    async def call(self, topic: str, payload: bytes = b"", timeout: float | None = None) -> bytes:
        """Take or release the lead, when the test permits it."""
        await self.answers.wait()
        if self.fails:
            raise NoAnswer(topic)
        self.leads.append(topic == LEAD)
        if topic == LEAD:
            self.known.append(msgpack.decode(payload, type=TakeLead))
        return f"done by {self.number}".encode()

    def kill(self, reason: str) -> None:
        """Exit."""
        self._end(-9)


async def test_a_process_that_is_being_replaced_does_not_take_the_lead() -> None:
    """Another one may have been asked first, and not have answered until the replacement began."""
    oldest, retired, youngest = children = [Process(number) for number in (1, 2, 3)]
    lead = Lead(
        {child.number: child for child in children},
        asyncio.Event(),
        lambda number, reason: children[number - 1].kill(reason),
        1,
    )
    with capture_logs():
        appointing = asyncio.create_task(lead.appoint())
        await asyncio.sleep(0)
        retired.retire()
        youngest.fails = True
        for child in children:
            child.answers.set()
        await appointing
    assert (lead.number, oldest.leads, retired.leads) == (1, [True], [])


async def test_the_next_leader_gets_the_progress_of_the_last_one_that_reported_it() -> None:
    """When it released the lead, or before it died. What it did after that is not known."""
    first, second, third, fourth = children = [Process(number) for number in (4, 3, 2, 1)]  # the youngest leads
    lead = Lead(
        {child.number: child for child in children},
        asyncio.Event(),
        lambda number, reason: children[4 - number].kill(reason),
        1,
    )
    for child in children:
        child.answers.set()
    with capture_logs():
        await lead.appoint()
        first.retire()
        await lead.release(first)
        await lead.note(first.number, b"late")
        await lead.note(second.number, b"reported by 3")
        second.kill("")
        await lead.appoint()
        third.retire()
        third.fails = True
        await lead.release(third)
    known = [child.known for child in (first, second, third, fourth)]
    assert known == [
        [TakeLead(b"", released=True)],
        [TakeLead(b"done by 4", released=True)],
        [TakeLead(b"reported by 3", released=False)],
        [TakeLead(b"reported by 3", released=False)],
    ]
