"""A run: one execution of a flow, from its first credit to its summary."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, cast

from reactivex import Observable
from reactivex.disposable import CompositeDisposable

from penstock.core.context import CANCEL_SECONDS, RunContext
from penstock.core.deadlines import Deadlines, RunDeadline
from penstock.core.element import Element, Outcome, message_of
from penstock.core.fairness import FairScheduler
from penstock.core.window import Window
from penstock.deadletters import DeadLetter, LetterWriter, Stores
from penstock.deadletters.dead_letter import make_dead_letters
from penstock.deadletters.redaction import redact
from penstock.errors import (
    FlowDefinitionError,
    MemoryBoundExceeded,
    PenstockError,
    ReaderDisconnected,
    ResponseTooLarge,
    RunError,
    SourceFailed,
    UnsettledElements,
    describe,
)
from penstock.results import ResultConsumer
from penstock.runtime.counters import FlowStatistics
from penstock.runtime.failure_branch import dead_letter
from penstock.runtime.order import Order, Ordered, check_key, order_of
from penstock.runtime.shutdown import close_stores
from penstock.runtime.summary import EndReason, Summary
from penstock.runtime.wiring import RunPlan, connect
from penstock.support.ids import new_id, now
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

log = get_logger()


class Run:
    """One execution of a flow. `await run.finished` returns its `Summary` and raises no error of the flow.

    A resumed run takes the `id` of the earlier run. `first_seq` is the first number its source emits; the results of an
    run in input order start there. `letters` takes the dead letters instead of the store of the plan, and stays open.
    Elements that are not finished at the `deadline` fail.
    """

    def __init__(
        self,
        plan: RunPlan,
        source: Observable[list[Element[Any]]],
        consumer: ResultConsumer,
        *,
        kind: str = "run",
        ordered: Ordered = None,
        stores: Stores | None = None,
        statistics: FlowStatistics | None = None,
        fairness: FairScheduler | None = None,
        on_end: Callable[[Run, Summary], None] | None = None,
        id: str | None = None,
        first_seq: int = 0,
        rng: random.Random | None = None,
        letters: LetterWriter | None = None,
        deadline: RunDeadline | None = None,
    ) -> None:
        if not hasattr(source, "subscribe"):
            raise FlowDefinitionError(
                f"flow {plan.name}: source: expected a source such as from_iterable([…]), got {type(source).__name__}"
            )
        if not isinstance(cast(object, consumer), ResultConsumer):
            raise FlowDefinitionError(
                f"flow {plan.name}: consumer: expected an object such as LineWriter(write), got {consumer!r}"
            )
        self.id = id or new_id()
        self.plan = plan
        self.order = order_of(ordered, plan.order)
        check_key(plan.name, self.order, plan.key)
        self.kind = kind
        self.started_at: datetime = now()
        self.window = Window(plan.elements, plan.bytes)
        self.statistics = statistics or FlowStatistics(plan.name)
        self.context = RunContext(
            self.window,
            name=f"{plan.name}:{self.id}",
            histograms=self.statistics.histograms,
            on_fault=self._on_fault,
            ordered=self.order is Order.INPUT,
            fairness=fairness,
            deadlines=None if plan.deadline is None and deadline is None else Deadlines(plan.deadline, deadline),
        )
        self.ledger = self.context.ledger
        self.reason: EndReason | None = None
        self._source = source
        self._consumer = consumer
        self._first_seq = first_seq
        self._stores = stores or Stores()
        self._own_stores = stores is None
        self._on_end = on_end
        self._rng = rng
        self._letters = letters
        self._started = self.context.loop.time()
        self._drain_reason = EndReason.DRAINING
        self._aborted = False
        self.error: BaseException | None = None
        """The error that made the run fail, if it did."""
        self._subscriptions = CompositeDisposable()
        self._waiters: set[asyncio.Future[Summary]] = set()
        self._result: Summary | BaseException | None = None
        """The result for all waiters: the summary, or the exception that prevented it."""
        self._log = log.bind(flow=plan.name, run=self.id, kind=kind, **_version(plan))
        self.statistics.begin(self)
        self.context.fairness.begin(self._started)
        self._task = self.context.loop.create_task(self._main(), name=f"run:{self.id}")

    @property
    def revision(self) -> int | None:
        """The revision of the flow, in a service that can load several."""
        return self.plan.revision

    @property
    def awaited_service(self) -> str | None:
        """The name of a service that calls of this run wait for, because its circuit breaker is open; else None."""
        return self.context.awaited_service

    @property
    def source_connected(self) -> bool | None:
        """Whether the source has a connection to its server; None if it has not connected yet, or needs none."""
        is_connected = self.context.source_connected
        return None if is_connected is None else is_connected()

    @property
    def finished(self) -> asyncio.Future[Summary]:
        """A future for the summary. Cancelling the future does not cancel the run.

        The run resolves its futures itself: a shield of its task would cost two more iterations of the event loop.
        """
        waiter: asyncio.Future[Summary] = self.context.loop.create_future()
        if self._result is not None:
            _resolve(waiter, self._result)
        else:
            self._waiters.add(waiter)
            waiter.add_done_callback(self._waiters.discard)
        return waiter

    def drain(self, reason: str = EndReason.DRAINING) -> None:
        """Accept no further input and finish the elements in flight. Does nothing if the input has ended already."""
        if not self.context.input_closed:
            self._drain_reason = EndReason(reason)
        self.context.drain()

    def abort(self, reason: str = EndReason.ABORTED) -> None:
        """Cancel everything now. Elements in flight are settled as cancelled. Of several reasons the first is kept."""
        if self.reason is None:
            self.reason = EndReason(reason)
            self._aborted = True
            if not self.context.done.done():
                self.context.done.set_result(None)

    async def _main(self) -> None:
        try:
            self._result = await self._run_and_close()
        except BaseException as error:  # a bug in this class, or the shutdown of the event loop
            self._result = error
            raise
        finally:
            assert self._result is not None
            with suppress(RuntimeError):  # the event loop was closed, and with it all waiters
                for waiter in list(self._waiters):
                    _resolve(waiter, self._result)

    async def _run_and_close(self) -> Summary:
        try:
            await self._run()
        except Exception as error:
            self._on_fault(error)
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            summary = await self._close()
            if self._own_stores:
                await close_stores(self._stores)
            if self._on_end is not None:
                self._on_end(self, summary)
        return summary

    async def _run(self) -> None:
        dead_letters = self.plan.dead_letters
        store = self._letters
        if store is None and dead_letters is not None:
            store = self._stores.opened(dead_letters)
        if dead_letters is not None and store is None:
            opening = asyncio.ensure_future(self._stores.get(dead_letters))
            await asyncio.wait((opening, self.context.done), return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():  # aborted meanwhile
                opening.cancel()
                detach(opening)
                await asyncio.wait((opening,), timeout=CANCEL_SECONDS)
                return
            store = opening.result()
        if not self.context.done.done():
            self._connect(store)
            await self.context.done
            self.context.reap_finished_tasks()

    def _connect(self, store: LetterWriter | None) -> None:
        letters = None
        if store is not None:
            letters = dead_letter(store, self._make_dead_letters, on_error=self._on_store_error, rng=self._rng)
        connect(
            self._source,
            self.plan.steps,
            self._consumer,
            self.context,
            self._subscriptions,
            letters=letters,
            first_seq=self._first_seq,
            by_key=self.order is Order.KEY,
        )

    async def _close(self) -> Summary:
        if self.reason is None:
            self.error = self.context.source_error
            drained = self._drain_reason if self.context.draining else EndReason.COMPLETED
            self.reason = EndReason.FAILED if self.error else drained
        try:
            self._subscriptions.dispose()
        except Exception as broken:  # an operator that raises while it is disposed
            self._fail(broken)
        stuck, errors = await self.context.aclose()
        for error in errors:
            self._fail(error)
        self._notify_end()
        if self.error is None and not self._aborted and (law := self._check_invariants()) is not None:
            self._fail(law)
        self.ledger.close()
        await self._close_leases()
        self.statistics.end(self, self.reason or EndReason.FAILED)
        self.context.fairness.end()
        summary = self._summary()
        with suppress(Exception):  # a log that cannot be written must not prevent the end of the run
            self._log_end(summary, stuck)
        return summary

    def _notify_end(self) -> None:
        """Notify source and consumer that the run is over. An error in one does not prevent the end of the run."""
        on_run_end = getattr(self._source, "on_run_end", None)  # not every Observable has it
        calls: list[Callable[[], object]] = [self._consumer.close]
        if on_run_end is not None:
            calls.insert(0, partial(on_run_end, self.ledger))
        for call in calls:
            try:
                call()
            except Exception as error:
                self._fail(error)

    async def _close_leases(self) -> None:
        """Answer all leases. Their lessor may have lost its connection; then the broker takes the leases back."""
        if self.ledger.leases is not None and (error := await self.ledger.leases.aclose()) is not None:
            self._log.error("source.close_failed", error=describe(error))

    def _fail(self, error: BaseException) -> None:
        """Record an error of the closing phase, unless there is an earlier one. An abort keeps its reason."""
        self.error = self.error or error
        if not self._aborted:
            self.reason = EndReason.FAILED

    def _check_invariants(self) -> RunError | None:
        """Return the bug that the counters reveal: unsettled elements, or an exceeded memory bound."""
        if self.ledger.in_flight:
            return UnsettledElements(self.ledger.in_flight)
        held, bound = self.window.peak + self.ledger.peak_parts, self.plan.bound
        return MemoryBoundExceeded(held, bound) if bound is not None and held > bound else None

    def _log_end(self, summary: Summary, stuck: list[str]) -> None:
        if stuck:
            self._log.error("run.tasks_not_cancelled", tasks=stuck)
        if isinstance(self.error, SourceFailed):
            self._log.warning("source.failed", error=describe(self.error))
        elif isinstance(self.error, ResponseTooLarge):  # the message tells the client what to do; no bug here
            self._log.warning("response.too_large", limit=self.error.limit)
        elif self.error is not None:
            bug = None if isinstance(self.error, PenstockError) else self.error  # our own exceptions need no traceback
            self._log.error("run.failed", error=describe(self.error), exc_info=bug)
        late = self.context.source_error
        if late is not None and late is not self.error:  # the source failed while the run was closed
            self._log.warning("source.failed", error=describe(late))
        dropped = {"dropped": self.ledger.dropped} if self.ledger.dropped else {}
        self._log.info("run.ended", **summary.log_fields(), **dropped)

    def _summary(self) -> Summary:
        settled = self.ledger.settled
        return Summary(
            self.id,
            self.plan.name,
            self.kind,
            self.reason or EndReason.FAILED,
            self.ledger.received,
            settled[Outcome.OK],
            settled[Outcome.FAILED],
            settled[Outcome.FILTERED],
            settled[Outcome.CANCELLED],
            round(self.context.loop.time() - self._started, 6),
            message_of(self.error) if self.error is not None else None,
        )

    def _on_fault(self, error: BaseException) -> None:
        if isinstance(error, ReaderDisconnected):
            self.abort(EndReason.DISCONNECTED)
        elif self.reason is None:
            self.error = error
            self.abort(EndReason.FAILED)
        elif self.error is None or describe(error) != describe(self.error):  # other elements often raise the same error
            self._log.warning("run.late_error", error=describe(error))

    def _on_store_error(self, error: BaseException, wait: float | None) -> None:
        self.statistics.store_failures += 1
        self._log.warning(
            "store.write_failed", error=describe(error), retry_in=None if wait is None else round(wait, 3)
        )

    def _make_dead_letters(self, elements: list[Element[Any]]) -> list[DeadLetter]:
        if paths := self.plan.redacted:
            elements = [redact(element, paths) for element in elements]
        leases = self.ledger.leases
        origin_of = None if leases is None else leases.origin
        return make_dead_letters(self.plan.name, self.id, self.started_at, elements, self.plan.revision, origin_of)


def _resolve(waiter: asyncio.Future[Summary], result: Summary | BaseException) -> None:
    """Resolve a waiter with the result of the run."""
    if waiter.done():
        return
    if isinstance(result, asyncio.CancelledError):
        waiter.cancel()
    elif isinstance(result, BaseException):
        waiter.set_exception(result)
    else:
        waiter.set_result(result)


def _version(plan: RunPlan) -> dict[str, Any]:
    """Return the version of the flow for log lines; empty if it has none."""
    return {} if plan.revision is None else {"revision": plan.revision, "digest": plan.digest}
