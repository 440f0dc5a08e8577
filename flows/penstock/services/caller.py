"""One task of a bulkhead: it makes calls, one after another, and a call is ended without ending the task."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import CallCancelled, TimedOut
from penstock.services.lane import Again, Job, Lane
from penstock.services.tries import At

if TYPE_CHECKING:
    from penstock.services.bulkhead import Bulkhead

SHARE = 16
"""Calls in a row that one caller makes for one run while others have some too, if none of them waits.

Answers are told when the event loop turns, so taking turns call by call would bring none of them sooner, and it costs:
with four requests side by side an order took 2.4 times the CPU of one alone. Shares of 16 cost no more than larger
ones, and 64 runs have theirs within one `SLICE`.
"""


class Cut(Enum):
    """Why a caller's call was cancelled."""

    TIMED_OUT = "the call took too long"
    LEFT = "the run that asked is over"


class Caller:
    """One task of the pool, and the call it makes."""

    __slots__ = ("_pool", "_sleep", "cancels", "cut", "ended", "free", "lane", "since", "task", "waited")

    def __init__(self, pool: Bulkhead) -> None:
        self._pool = pool
        self.task: asyncio.Task[None] = cast("asyncio.Task[None]", None)
        self.lane: Lane | None = None
        self.since = 0.0
        self.cut: Cut | None = None
        self.waited = False
        """Whether the last call waited, so that the event loop has turned since it began."""
        self.cancels = 0
        self.ended = False
        self.free = asyncio.Event()
        self._sleep: asyncio.Future[None] | None = None

    def sleep(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """What to await until there may be work."""
        self._sleep = loop.create_future()
        return self._sleep

    def wake(self) -> None:
        """There may be work."""
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    async def make_calls(self, most: int) -> int:
        """Make the next call of the lane whose turn it is; returns how many were made. The hot path of every element.

        As long as calls do not wait, no time passes and nobody else gets a turn: then the next ones follow at once.
        """
        pool, at_once, another_time = self._pool, At.ONCE, At.ANOTHER_TIME
        queue, call = pool.queue, pool.call
        self.lane = lane = queue[0]
        calls, next_call = lane.calls, lane.calls.popleft
        if len(queue) > 1:
            queue.rotate(-1)
            most = min(most, SHARE)
        job = next_call()
        if not calls:
            queue.remove(lane)
        if queue and not pool.waking:
            pool.wake()
        self.since = pool.clock()
        if pool.timeouts.timer is None:
            pool.timeouts.look_after(self.since, lane.loop)
        self.waited = False
        if not lane.turning:
            lane.hear_turn()
        lane.began.append(self)
        # What hears of this turn is queued before the call can yield, and runs before this caller goes on. So another
        # number then means that the call has waited.
        turn = lane.turn
        add_job, add_answer = lane.jobs.append, lane.answers.append
        left = most = min(most, len(calls) + 1)
        attempt, pause = 1, 0.0
        answer: Any = None
        broken: BaseException | None = None
        while True:
            try:
                if pause:
                    await asyncio.sleep(pause)
                answer = await call(job.value)
            except BaseException as error:
                broken = error
            else:
                if attempt == 1 and lane.turn == turn:  # the usual case, which is all that most orders see of this
                    add_job(job)
                    add_answer(answer)
                    left -= 1
                    if not left:
                        return most
                    job = next_call()
                    if not calls:
                        queue.remove(lane)
                    continue
            if broken is not None:  # outside of the handler: there, the next attempt's error would name this one
                answer = self._broken_off(lane, job, attempt, broken)
                broken = None  # it refers to this frame by its traceback
                if answer is at_once:
                    attempt += 1
                    pause = 0.0 if pool.spacing is None else pool.spacing.reserve(pool.clock())
                    self.since = pool.clock() + pause
                    continue
            if lane.turn != turn:
                self.waited = True
                if self.cut is not None or self.task.cancelling():  # the call swallowed its cancelling
                    self.pardon()
                if answer is not another_time:
                    lane.answer(job, answer)
                return most - left + 1
            if answer is not another_time:
                add_job(job)
                add_answer(answer)
            left -= 1
            if not left:
                return most
            job = next_call()
            attempt, pause = 1, 0.0
            if not calls:
                queue.remove(lane)

    def cancel(self, cut: Cut) -> None:
        """End the call under way, but not the caller."""
        self.free.clear()
        self.task.cancel()
        self.cancels += 1
        self.cut = cut

    def time_out(self) -> None:
        """End the call under way because it takes too long; one that is to end already is told so again."""
        self.cancel(self.cut or Cut.TIMED_OUT)

    def pardon(self) -> Cut | None:
        """Take back the cancelling of its call, and give what it was for; raises if the event loop comes to its end.

        Then all tasks are cancelled. If only this one is, its call did that to itself, and the next call is another.
        """
        cut, self.cut = self.cut, None
        self.free.set()
        for _ in range(self.cancels):
            self.task.uncancel()
        self.cancels = 0
        if self.task.cancelling():
            if all(task.cancelling() for task in asyncio.all_tasks()):
                raise asyncio.CancelledError
            while self.task.uncancel():
                pass
        return cut

    def _broken_off(self, lane: Lane, job: Job | Again, attempt: int, error: BaseException) -> Any:
        """What a call that raised comes to: a failure, another attempt, or nothing for a run that left or broke.

        `attempt` counts those that this caller made in a row.
        """
        if self.cut is not None:
            timed_out = self.pardon() is Cut.TIMED_OUT
            if lane.closed or not timed_out:
                self._pool.cancelled += 1
                return At.ANOTHER_TIME
            error = TimedOut(self._pool.name, self._pool.timeouts.seconds)
        elif isinstance(error, asyncio.CancelledError):
            self.pardon()
            error = CallCancelled(self._pool.name)
        elif not isinstance(error, Exception):  # what nobody is to catch ends the run, as from any other function
            lane.fault(error)
            self._pool.cancelled += 1
            return At.ANOTHER_TIME
        if type(job) is Again:
            attempt += job.attempt - 1
        return self._pool.tries.after(lane, job, attempt, error)
