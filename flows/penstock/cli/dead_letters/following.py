"""Follow a redrive job: its progress as a line on a terminal, signals, its outcome and the exit code."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing, suppress
from typing import Any

from penstock.cli.dead_letters.arguments import DeskOptions
from penstock.cli.dead_letters.tables import job_summary
from penstock.cli.run.execute import signal_handlers
from penstock.cli.run.progress import clock
from penstock.deadletters.dead_letter_queue import Job, Requester
from penstock.errors import JobEnded
from penstock.redrive.desk import Desk
from penstock.redrive.documents import job_document
from penstock.redrive.local_desk import LocalDesk
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data
from penstock.support.text import printable

REDRAW_SECONDS = 0.1
"""The minimum between two redraws."""


async def follow(desk: Desk, id: str, place: DeskOptions, requester: Requester, *, as_json: bool) -> int:
    """Show the progress of a job until it is no longer running. Returns the exit code.

    The first signal pauses a job that runs here, after the letters in flight are settled; the second one cancels these.
    A job of a service continues there.
    """
    line = ProgressLine()
    reader = asyncio.create_task(_read(desk, id, line), name="penstock:follow")
    tasks: set[asyncio.Task[Any]] = set()

    def drain() -> None:
        if isinstance(desk, LocalDesk):
            line.clear()
            sys.stderr.write("pausing: the letters in flight are finished\n")
            tasks.add(asyncio.create_task(_pause(desk, id, requester), name="penstock:pause"))
        else:
            reader.cancel()

    def abort() -> None:
        if isinstance(desk, LocalDesk):
            tasks.add(asyncio.create_task(desk.abort(), name="penstock:abort"))

    with signal_handlers(drain, abort):
        try:
            await asyncio.wait((reader,))
        finally:
            line.clear()
        await asyncio.gather(*tasks)
    if reader.cancelled():
        words = f"penstock dead-letters pause {id}{place.words()}"
        sys.stderr.write(f"job {id} continues in the service; to pause it: {words}\n")
        return 1
    return _report(reader.result(), place, as_json=as_json)


async def _pause(desk: Desk, id: str, requester: Requester) -> None:
    with suppress(JobEnded):  # at this moment
        await desk.change_job(id, requester, state="paused")


async def _read(desk: Desk, id: str, line: ProgressLine) -> Job:
    progress: Any = desk.progress(id)
    async with aclosing(progress):
        async for job in progress:
            line.draw(job)
    return await desk.job(id)


def _report(job: Job, place: DeskOptions, *, as_json: bool) -> int:
    """Write the outcome of a job. Returns 0 if it completed and no letter failed again."""
    write_data(encode_json(job_document(job)) + b"\n" if as_json else f"{job_summary(job)}\n")
    if job.message:
        sys.stderr.write(f"{printable(job.message)}\n")
    if job.state in ("paused", "stopped", "running"):
        resume = f"penstock dead-letters resume {job.id}{place.words()}"
        sys.stderr.write(f"to continue: {resume}\n")
    elif job.counts.failed:
        sys.stderr.write(f"what failed again: penstock dead-letters groups{place.words()}\n")
    return 0 if job.state == "completed" and not job.counts.failed else 1


class ProgressLine:
    """One line on standard error that shows the counts of a job; nothing if that is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._first: int | None = None
        self._next = 0.0
        self._drawn = False

    def draw(self, job: Job) -> None:
        """Draw the counts of a job, unless they were drawn just now."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + REDRAW_SECONDS
        self._drawn = True
        with suppress(OSError):  # the terminal was closed; the job continues
            sys.stderr.write(f"\r{self._text(job, now - self._started)}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Leave an empty line."""
        if self._drawn:
            self._drawn = False
            with suppress(OSError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

    def _text(self, job: Job, seconds: float) -> str:
        counts = job.counts
        done = counts.total - counts.open
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / seconds if seconds else 0.0
        current = next((number for number, batch in enumerate(job.batches, 1) if batch.open), len(job.batches))
        batch = f"batch {current} of {len(job.batches)}  " if len(job.batches) > 1 else ""
        share = done / counts.total if counts.total else 1.0
        waits = f"  {printable(job.message)}" if job.message else ""
        return (
            f"{share:4.0%}  {batch}{done:,} of {counts.total:,}  {counts.resolved:,} resolved  "
            f"{counts.failed:,} failed again  {rate:,.0f}/s  {clock(seconds)}{waits}"
        )
