"""A service: something outside that a step calls, protected by a bulkhead that all runs share."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from penstock.services.backoff import Backoff
from penstock.services.bulkhead import Bulkhead
from penstock.services.lane import Done, Lane
from penstock.services.spacing import Spacing
from penstock.services.tries import Tries, worth_another
from penstock.threads import finished

MAX_IN_FLIGHT = 256
"""Calls that a service may have in flight at once, unless told otherwise."""


class Service:
    """What a step calls: a function, how many calls at once, how long one may take, how often it is tried.

    `call` takes the value of an element and gives the answer. It is a coroutine function, or a plain one that is quick;
    a plain one that blocks runs in a thread with `blocking=True`. Such a service has `max_in_flight` threads of its
    own. A timeout abandons a call in a thread but cannot stop it: until it returns, its thread serves nobody else.

    `timeout` is in seconds, for one attempt. `attempts` counts the first one too. `retry_on` tells which errors are
    worth another attempt (default: all that do not say otherwise). `rate` is in calls a second, over all runs and
    attempts (default: as fast as they come).

    A `call` that is an object may have, from the start, a coroutine method `rest`: it is awaited when no run uses the
    service any more, and no supervisor keeps it for the next one.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[Any], Any],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout: float = 30.0,
        attempts: int = 1,
        backoff: Backoff | None = None,
        retry_on: Callable[[BaseException], bool] = worth_another,
        blocking: bool = False,
        rate: float | None = None,
        chance: random.Random | None = None,
    ) -> None:
        _check_call(name, call, blocking)
        if max_in_flight < 1 or attempts < 1 or max_in_flight % 1 or attempts % 1:
            raise ValueError(
                f"service {name} needs max_in_flight and attempts from 1 on, whole, got {max_in_flight}, {attempts}"
            )
        if not timeout > 0:
            raise ValueError(f"service {name} needs a timeout above 0 seconds, got {timeout!r}")
        if rate is not None and not rate > 0:
            raise ValueError(f"service {name} needs a rate above 0 calls a second, got {rate!r}")
        self.name = name
        self.function = call
        self.max_in_flight = max_in_flight
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff or Backoff()
        self.retry_on = retry_on
        self.blocking = blocking
        self.rate = rate
        self._tries = Tries(attempts, self.backoff, retry_on, chance or random.Random())  # noqa: S311 - jitter
        self.bulkhead = Bulkhead(
            name,
            _as_coroutine_function(call, ThreadPoolExecutor(max_in_flight, name) if blocking else None),
            most=max_in_flight,
            timeout=timeout,
            tries=self._tries,
            spacing=None if rate is None else Spacing(rate),
            rest=getattr(call, "rest", None),
        )

    def __repr__(self) -> str:
        return f"Service({self.name!r}, max_in_flight={self.max_in_flight}, attempts={self.attempts})"

    def __eq__(self, other: object) -> bool:
        return self.described == other.described if isinstance(other, Service) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def described(self) -> tuple[Any, ...]:
        """What was said when it was made: services that say the same are equal, though each has its own bulkhead."""
        return (
            self.name,
            self.function,
            self.max_in_flight,
            self.timeout,
            self.attempts,
            self.backoff,
            self.retry_on,
            self.blocking,
            self.rate,
        )

    @property
    def results(self) -> dict[str, int]:
        """Attempts so far, by what came of them."""
        return {
            "ok": self.bulkhead.succeeded,
            "error": self._tries.errors,
            "timeout": self._tries.timeouts,
            "cancelled": self.bulkhead.cancelled,
        }

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return self._tries.retries

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self.bulkhead.in_flight

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn or their next attempt."""
        return self.bulkhead.waiting

    def calling(self, call: Callable[[Any], Any], *, chance: random.Random | None = None) -> Service:
        """The same service, with a bulkhead of its own and another function; for tests."""
        return Service(
            self.name,
            call,
            max_in_flight=self.max_in_flight,
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            retry_on=self.retry_on,
            rate=self.rate,
            chance=chance,
        )

    def lane(self, done: Done, fault: Callable[[BaseException], None] | None = None) -> Lane:
        """A way in for one step of one run; `done` is told the answers, several at a time, and `fault` if it raised.

        Close it after use.
        """
        return self.bulkhead.lane(done, fault)

    def keep(self) -> None:
        """Keep the callers also while no run uses the service: making them anew adds a tenth to a run of few calls.

        A supervisor does it for the services of its flows. They belong to its event loop until it lets go of them.
        """
        self.bulkhead.keep()

    def let_go(self) -> list[asyncio.Future[Any]]:
        """Keep the callers no longer; after the last who does, they end in the next turn of the event loop.

        Returns what is to be waited for besides, such as connections that close.
        """
        return self.bulkhead.let_go()


def _check_call(name: str, call: object, blocking: bool) -> None:
    """Refuse what cannot be called, and what gives no answer when it is."""
    if not callable(call):
        raise TypeError(f"service {name} needs a function to call, got {call!r}")
    if any(inspect.isasyncgenfunction(each) for each in functions_of(call)):
        raise TypeError(f"service {name} is an async generator; a call returns one answer")
    if blocking and any(inspect.iscoroutinefunction(each) for each in functions_of(call)):
        raise TypeError(f"service {name} is a coroutine function, which does not block; leave out blocking=True")


def functions_of(call: object) -> tuple[object, object]:
    """What may be a coroutine function, say: what is called, or if it is an object, its method."""
    return call, getattr(call, "__call__", None)  # noqa: B004 - the method itself is looked at, not whether there is one


def _as_coroutine_function(
    call: Callable[[Any], Any], threads: ThreadPoolExecutor | None
) -> Callable[[Any], Awaitable[Any]]:
    if threads is not None:
        return lambda value: _in_thread(threads, call, value)
    if any(inspect.iscoroutinefunction(each) for each in functions_of(call)):
        return call

    async def answer(value: Any) -> Any:
        result = call(value)
        return await result if inspect.isawaitable(result) else result

    return answer


def _in_thread(threads: ThreadPoolExecutor, call: Callable[[Any], Any], value: Any) -> Awaitable[Any]:
    context = copy_context()
    return asyncio.get_running_loop().run_in_executor(threads, lambda: finished(lambda: context.run(call, value)))
