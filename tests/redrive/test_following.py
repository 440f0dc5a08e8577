"""Following a redrive job by a command."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

import pytest

from penstock.cli.dead_letters.arguments import DeskOptions
from penstock.cli.dead_letters.following import follow
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import Job, JobOptions, Requester
from penstock.redrive.local_desk import LocalDesk
from redrive.letters import Flows, letter

ME = Requester("me")


async def test_an_interrupt_at_the_moment_of_completion(capsys: pytest.CaptureFixture[str]) -> None:
    """The job cannot be paused any more; its outcome is reported."""
    store = MemoryStore()
    await store.add([letter(1)])
    job = await store.create_job(DeadLetterQuery(), JobOptions(), ME)

    class Desk(LocalDesk):
        async def progress(self, id: str) -> AsyncGenerator[Job]:
            await store.change_job(id, None, state="completed")
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.1)
            yield job

    code = await follow(Desk(lambda: [store], Flows()), job.id, DeskOptions("memory:"), ME, as_json=False)
    assert code == 0
    assert "completed" in capsys.readouterr().out
