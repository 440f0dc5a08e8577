"""Which process leads: one that goes on serving, and no other one before the previous one has stopped."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from structlog.testing import capture_logs

from penstock_http.processes.child import Child, State
from penstock_http.processes.lead import Lead
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

    async def call(self, topic: str, payload: bytes = b"", timeout: float | None = None) -> bytes:
        """Take or release the lead, when the test permits it."""
        await self.answers.wait()
        if self.fails:
            raise NoAnswer(topic)
        self.leads.append(bool(payload))
        return b""

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
