"""The runs of the flows that a redrive job runs its letters through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.errors import RedriveError
from penstock.redrive.flow_run import FlowRun
from penstock.redrive.flows import FlowLookup
from penstock.runtime.supervisor import RunnableFlow

OUTAGE_SECONDS = 1.0
"""Seconds in which a run that waits for a service that is down finishes its other letters, before it is aborted."""

RunEnd = Callable[[FlowRun, str | None], None]
"""Called at the end of a run, with the error if it failed."""


class JobRuns:
    """Keeps one run of the current revision of each flow. Earlier runs finish their letters in flight.

    `start` begins a run of a flow, which calls its second argument at its end; `on_end` is called after that.
    """

    def __init__(
        self, flows: FlowLookup, start: Callable[[RunnableFlow, RunEnd], FlowRun], on_end: Callable[[str | None], None]
    ) -> None:
        self._flows = flows
        self._start = start
        self._on_end = on_end
        self._current: dict[str, FlowRun] = {}
        """The run of each flow that takes letters."""
        self._closing: set[FlowRun] = set()
        """Runs that finish their letters in flight."""

    def of(self, name: str) -> FlowRun:
        """Return the run of the current revision of a flow. Raises `RedriveError` if there is none, `ShuttingDown`."""
        flow = self._flows.flow(name)
        run = self._current.get(name)
        if run is not None and (run.flow is not flow or run.ended):
            self._retire(run)
            run = None
        if flow is None:
            raise RedriveError(
                f"the flow {name} is not loaded; load it, or redrive through another one: --through NAME"
            )
        if run is None:
            run = self._current[name] = self._start(flow, self._on_run_end)
        return run

    @property
    def awaited_service(self) -> str | None:
        """The name of a service that letters wait for, because its circuit breaker is open; else None."""
        names = (run.awaited_service for run in (*self._current.values(), *self._closing))
        return next((name for name in names if name is not None), None)

    def discard(self, name: str, run: FlowRun) -> None:
        """Use a run no more that has ended by itself."""
        if self._current.get(name) is run:
            self._retire(run)

    def retire_replaced(self) -> None:
        """Let runs of replaced revisions finish. The first letter starts a run of the new one."""
        for name, run in list(self._current.items()):
            if self._flows.flow(name) is not run.flow:
                self._retire(run)

    def complete(self) -> None:
        """Let all runs end as completed: no further letters come."""
        for run in list(self._current.values()):
            self._close(run)
            run.finish()

    def drain(self) -> None:
        """Let all runs finish their letters in flight."""
        for run in list(self._current.values()):
            self._retire(run)

    def abort(self) -> None:
        """Cancel the letters in flight of all runs."""
        self.drain()
        for run in list(self._closing):
            run.abort()

    async def finish(self) -> None:
        """Wait until all runs have ended, after `drain`. Abort those that wait for a service that is down.

        Otherwise a job that is paused would keep letters until the service works again.
        """
        while self._closing:
            await asyncio.wait([run.finished for run in self._closing], timeout=OUTAGE_SECONDS)
            for run in list(self._closing):
                if run.awaited_service is not None:
                    run.abort()
            await asyncio.sleep(0)

    def _retire(self, run: FlowRun) -> None:
        self._close(run)
        if not run.ended:
            run.drain()

    def _close(self, run: FlowRun) -> None:
        """Use a run no more, and wait for its end in `finish`."""
        for name in [name for name, other in self._current.items() if other is run]:
            del self._current[name]
        if not run.ended:
            self._closing.add(run)

    def _on_run_end(self, run: FlowRun, error: str | None) -> None:
        self._closing.discard(run)
        if self._current.get(run.flow.name) is run:
            del self._current[run.flow.name]
        self._on_end(error)
