"""Execute one run from the command line: signals, checkpoints, end record, summary and exit code."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

import structlog

from penstock.backends.server_url import hide_password
from penstock.checkpoints.journal import Journal
from penstock.checkpoints.output_file import FileOutput, Output
from penstock.checkpoints.resume import ResumedNdjson, find_letters, save
from penstock.cli.run.inputs import FileInput
from penstock.cli.run.progress import Progress, ProgressSnapshot, summary_line
from penstock.core.element import Outcome
from penstock.deadletters import Stores
from penstock.deadletters.stores import MEMORY, normalize_url
from penstock.errors import OutputUnusable, ReaderDisconnected
from penstock.flow.flow import Flow
from penstock.results import EndRecord, LineWriter, end_line
from penstock.runtime import EndReason, Event, Order, Phase, Run, Summary
from penstock.runtime.hard_stop import HardStop
from penstock.runtime.shutdown import next_phase
from penstock.sources import Source
from penstock.support.text import printable

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(kw_only=True)
class Resumable:
    """The journal, the checkpoint file and the source factory of a resumable run."""

    journal: Journal
    path: str
    output: FileOutput
    make_source: Callable[..., FileInput]
    every: float


@dataclass(kw_only=True)
class Job:
    """A run to execute."""

    flow: Flow[Any]
    output: Output
    source: Source[Any] | None = None
    resumable: Resumable | None = None
    order: Order = Order.COMPLETION
    progress: bool = False
    quiet: bool = False
    messages: TextIO = field(default_factory=lambda: sys.stderr)


async def execute(job: Job) -> int:
    """Execute a job. Return 0 if all is well, 1 if an element failed or the run did not complete."""
    stores = Stores(separate_writer=True)
    try:
        return await _Execution(job, stores).run()
    finally:
        await stores.aclose()


class _Execution:
    """A job that is being executed."""

    def __init__(self, job: Job, stores: Stores) -> None:
        self._job = job
        self._stores = stores
        self._aborted = asyncio.Event()

    async def run(self) -> int:
        """Run the job; return the exit code."""
        run, source = await self._start()
        resumable = self._job.resumable

        def abort() -> None:
            self._aborted.set()
            run.abort()

        with signal_handlers(run.drain, abort):
            helpers = (
                [asyncio.create_task(self._draw(run, source), name="penstock:progress")] if self._job.progress else []
            )
            if resumable is not None:
                helpers.append(
                    asyncio.create_task(self._save_periodically(run, resumable), name="penstock:checkpoints")
                )
            summary = await run.finished
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            end = summary.end_record() if resumable is None else resumable.journal.end_of(summary)
            written = await self._write_end_record(end, run)
            if resumable is not None:
                resumable.journal.end = end if written else None
                await _save(resumable)
        if summary.reason is not EndReason.DISCONNECTED:
            self._summarize(summary, end, source)
        return 0 if end.reason == EndReason.COMPLETED and written and not end.failed else 1

    async def _start(self) -> tuple[Run, Source[Any]]:
        job = self._job
        plan = job.flow.plan()
        if job.resumable is None:
            assert job.source is not None
            consumer = LineWriter(job.output.write)
            return Run(plan, job.source, consumer, ordered=job.order, stores=self._stores), job.source

        journal = job.resumable.journal
        letters = {}
        if plan.dead_letters is not None:
            letters = await find_letters(await self._stores.get(plan.dead_letters), journal)
        source = job.resumable.make_source(done=list(journal.done), letters=letters)
        run = Run(
            plan,
            source,
            LineWriter(job.output.write, ResumedNdjson(journal)),
            ordered=job.order,
            stores=self._stores,
            id=journal.run,
            first_seq=journal.done.first_missing,
        )
        run.ledger.watch(journal.on_settled)
        return run, source

    async def _save_periodically(self, run: Run, resumable: Resumable) -> None:
        """Write checkpoints until cancelled. If one cannot be written, the run ends: it could not be resumed."""
        try:
            while True:
                await asyncio.sleep(resumable.every)
                await _save(resumable)
        except Exception as error:  # also a bug in this code
            run.context.report_fault(error)

    async def _draw(self, run: Run, source: Source[Any]) -> None:
        await Progress(self._job.flow.name, lambda: self._progress(run, source), self._job.messages).draw()

    def _progress(self, run: Run, source: Source[Any]) -> ProgressSnapshot:
        ledger = run.ledger
        settled = ledger.settled if self._job.resumable is None else self._job.resumable.journal.counts
        ok, failed, filtered = (settled[one] for one in (Outcome.OK, Outcome.FAILED, Outcome.FILTERED))
        return ProgressSnapshot(
            ok + failed + filtered + ledger.in_flight,
            ok,
            failed,
            filtered,
            ledger.in_flight,
            source.fraction_read,
            run.awaited_service,
        )

    async def _write_end_record(self, end: EndRecord, run: Run) -> bool:
        """Write the end record. Not if the output was cut off, nor if the run is to be resumed."""
        complete = (EndReason.COMPLETED,)
        ended = complete if self._job.resumable is not None else (*complete, EndReason.DRAINING, EndReason.FAILED)
        if end.reason not in ended or isinstance(run.error, OutputUnusable):
            return False
        writing = asyncio.ensure_future(self._job.output.write(end_line(end)))
        aborted = asyncio.ensure_future(self._aborted.wait())
        await asyncio.wait((writing, aborted), return_when=asyncio.FIRST_COMPLETED)
        for task in (writing, aborted):
            task.cancel()
        with suppress(asyncio.CancelledError, ReaderDisconnected):
            await writing
            return True
        return False

    def _summarize(self, summary: Summary, end: EndRecord, source: Source[Any]) -> None:
        if self._job.quiet:
            return
        job, write = self._job, self._job.messages.write
        write(summary_line(job.flow.name, end) + "\n")
        if summary.error is not None:
            write(f"  the run failed: {printable(summary.error)}\n")
        if end.failed and (job.flow.store is None or isinstance(job.flow.store, str)):
            write(dead_letter_hint(job.flow.store, summary.run))
        if end.failed and (hint := source.failure_hint) is not None:
            write(f"  {hint}\n")
        if job.resumable is not None and end.reason != EndReason.COMPLETED:
            write("  the same command continues from here\n")
        job.messages.flush()


@contextmanager
def signal_handlers(drain: Callable[[], object], abort: Callable[[], object]) -> Generator[None]:
    """Let SIGINT and SIGTERM end a run within this context; restore the earlier handlers after it.

    The first signal drains the run, the second aborts it, the third exits the process.
    """
    loop = asyncio.get_running_loop()
    phase = Phase.SERVING
    hard_stop = HardStop(lambda event: log.error(event))

    def step() -> None:
        nonlocal phase
        phase = next_phase(phase, Event.SIGNAL)
        if phase is Phase.DRAINING:
            drain()
        elif phase is Phase.ABORTING:
            abort()

    def on_signal(*_: object) -> None:
        hard_stop.on_signal()
        loop.call_soon_threadsafe(step)  # Windows does not support loop.add_signal_handler

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        hard_stop.close()


async def _save(resumable: Resumable) -> None:
    await save(resumable.path, resumable.output, resumable.journal.checkpoint(resumable.output.offset))


def dead_letter_hint(url: str | None, run: str) -> str:
    """Return the line of the summary that says how to list the dead letters."""
    if url is None:
        return "  dead letters were not stored; to store them: --dead-letters sqlite:///FILE\n"
    if normalize_url(url) == MEMORY:
        return "  dead letters were stored in memory and are lost; to keep them: --dead-letters sqlite:///FILE\n"
    return f"  dead letters: penstock dead-letters list --dead-letters {shlex.quote(hide_password(url))} --run {run}\n"
