"""A service: a function outside the flow that steps call, behind a bulkhead that all runs share."""

from __future__ import annotations

import asyncio
import inspect
import random
import typing
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, overload

import msgspec
from msgspec import Struct
from typing_extensions import TypeIs, TypeVar

from penstock.core.context import DurationHistogram
from penstock.services.adaptive_limit import AdaptiveLimit, AdaptiveLimiter, measured
from penstock.services.bulkhead import Bulkhead
from penstock.services.call_queue import CallQueue, ResultCallback
from penstock.services.call_task import CallSpec
from penstock.services.circuit_breaker import DEFAULT_BREAKER, Breaker
from penstock.services.direct_calls import DirectFunction
from penstock.services.pacing import Pacer
from penstock.services.retry import Backoff, RateLimiter, RetryPolicy, is_retryable
from penstock.support.tasks import call_without_stop_iteration

if TYPE_CHECKING:
    from penstock.services.http_client import ConnectionStatistics, HttpClient, Tls

T = TypeVar("T", default=Any)
In = TypeVar("In", contravariant=True, default=Any)
Out = TypeVar("Out", covariant=True, default=Any)

MAX_IN_FLIGHT = 256
"""Default of `max_in_flight`."""

TIMEOUT = 30.0
"""Default of `timeout`: seconds for one attempt."""


class ServiceStatistics(Struct, frozen=True):
    """What a service did so far, and what it does now."""

    results: Mapping[str, int]
    """Attempts so far, by outcome: `ok`, `error`, `timeout`, `cancelled`."""
    retries: int
    """Attempts so far that repeated a failed one."""
    in_flight: int
    """Calls in flight."""
    waiting: int
    """Calls that wait for others to end, for the rate limit, or for their next attempt."""
    max_in_flight: int
    """Maximum of calls in flight; see `limit`."""
    paced_seconds: float = 0.0
    """Seconds so far in which calls waited because responses of the service asked for it."""
    limit: int = 0
    """Calls that may be in flight now."""
    breaker: str = "none"
    """State of the circuit breaker: `closed`, `open`, `half_open`, or `none`."""
    open_seconds: float = 0.0
    """Seconds so far in which the circuit breaker was not closed."""
    opened: int = 0
    """How often the circuit breaker has opened."""
    next_probe_seconds: float | None = None
    """Seconds until the service is tried again; None if the circuit breaker is not open."""
    durations: Mapping[str, DurationHistogram] = msgspec.field(default_factory=dict[str, DurationHistogram])
    """How long attempts took so far, by outcome."""
    connections: ConnectionStatistics | None = None
    """Connections now; None if the service is not called over HTTP."""


class Service(Generic[In, Out]):
    """A function that steps call, with its limits: calls in flight, timeout, attempts and rate.

    `call` receives the value of an element and returns the response. It is a coroutine function, or a plain function
    that returns quickly. A function that blocks runs in a thread with `blocking=True`; the service then has
    `max_in_flight` threads. A timeout abandons a call in a thread but cannot stop it: the thread makes no
    other call until the function returns.

    `max_in_flight` may be an `AdaptiveLimit`: then as many calls are in flight as the service can handle.

    `timeout` is in seconds, for one attempt. `attempts` includes the first one. `retry_on` returns whether an error is
    retryable (default: all errors without `retryable = False`). `rate` is in calls per second, over all runs and
    attempts (default: unlimited). `breaker` says when calls are held because the service is down; None: never.

    If `call` is an object with a coroutine method `on_idle` (looked up once, here), that method is awaited when no run
    uses the service and no supervisor retains it. The service may be called again later. If it has a `Pacer` as its
    attribute `pacer`, that one decides when the next call may start. Its method `connection_statistics` returns what
    the statistics of the service report about connections.
    """

    if TYPE_CHECKING:
        # A function that returns an awaitable first: with the other order its result would be the coroutine.
        @overload
        def __init__(
            self,
            name: str,
            call: Callable[[In], Awaitable[Out]],
            *,
            max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
            timeout: float = TIMEOUT,
            attempts: int = 1,
            backoff: Backoff | None = None,
            retry_on: Callable[[BaseException], bool] = is_retryable,
            rate: float | None = None,
            breaker: Breaker | None = DEFAULT_BREAKER,
            rng: random.Random | None = None,
        ) -> None: ...

        @overload
        def __init__(
            self,
            name: str,
            call: Callable[[In], Out],
            *,
            max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
            timeout: float = TIMEOUT,
            attempts: int = 1,
            backoff: Backoff | None = None,
            retry_on: Callable[[BaseException], bool] = is_retryable,
            blocking: bool = False,
            rate: float | None = None,
            breaker: Breaker | None = DEFAULT_BREAKER,
            rng: random.Random | None = None,
        ) -> None: ...

    def __init__(
        self,
        name: str,
        call: Callable[[Any], Any],
        *,
        max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
        timeout: float = TIMEOUT,
        attempts: int = 1,
        backoff: Backoff | None = None,
        retry_on: Callable[[BaseException], bool] = is_retryable,
        blocking: bool = False,
        rate: float | None = None,
        breaker: Breaker | None = DEFAULT_BREAKER,
        rng: random.Random | None = None,
    ) -> None:
        _check_call(name, call, blocking)
        adaptive_limit = max_in_flight if isinstance(max_in_flight, AdaptiveLimit) else None
        max_in_flight = max_in_flight.max if isinstance(max_in_flight, AdaptiveLimit) else max_in_flight
        _check_limits(name, max_in_flight, timeout, attempts, rate)
        self.name = name
        self.function = call
        self.max_in_flight: int = max_in_flight
        self.adaptive_limit = adaptive_limit
        """How `max_in_flight` adapts; None if it does not."""
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff or Backoff()
        self.retry_on = retry_on
        self.blocking = blocking
        self.rate = rate
        self.breaker = breaker
        rng = rng or random.Random()  # noqa: S311 - jitter
        function = _as_coroutine_function(call, ThreadPoolExecutor(max_in_flight, name) if blocking else None)
        limiter = None if adaptive_limit is None else AdaptiveLimiter(adaptive_limit)
        self._rate_limiter = None if rate is None else RateLimiter(rate)
        spec = CallSpec(
            service=name,
            function=function if limiter is None else measured(function, limiter, timeout),
            timeout=timeout,
            retry=RetryPolicy(attempts, self.backoff, retry_on, rng),
            rate_limiter=self._rate_limiter,
            pacer=_pacer_of(call),
        )
        self.bulkhead = Bulkhead(
            spec,
            max_in_flight=max_in_flight,
            on_idle=getattr(call, "on_idle", None),
            breaker=breaker,
            adaptive=limiter,
            rng=rng,
            direct=call if isinstance(call, DirectFunction) and limiter is None and rate is None else None,
        )
        self._connection_statistics: Callable[[], ConnectionStatistics] | None = getattr(
            call, "connection_statistics", None
        )

    @staticmethod
    def http(
        name: str,
        url: str,
        *,
        client: HttpClient | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        response: type[T] | Callable[[Any], T] | None = None,
        limit: int | None = None,
        tls: Tls | None = None,
        deadline_header: str | None = None,
        max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
        timeout: float = TIMEOUT,
        attempts: int = 1,
        backoff: Backoff | None = None,
        rate: float | None = None,
        breaker: Breaker | None = DEFAULT_BREAKER,
    ) -> Service[Any, T]:
        """Make a service that sends one HTTP request for each value; see `HttpCall` for how it is made.

        `response` is the type that the JSON of the response is converted to, or a function that converts it. `limit` is
        its maximum size in bytes (default 1 MiB), decompressed. `tls` has the certificates of an https service
        (default: those of the system are trusted). `deadline_header` is the header in which the time that remains until
        the deadline of a value is sent: `Penstock-Deadline: 1.5s`, or `Grpc-Timeout: 1500m` by that name.

        >>> pricing = Service.http("pricing", "http://prices/{orderId}", timeout=2, attempts=3)
        """
        from penstock.services.http_service import RESPONSE_LIMIT, HttpCall, is_retryable_http

        convert = _converter(response)
        return Service(
            name,
            HttpCall(
                name,
                url,
                method,
                headers or {},
                convert,
                limit or RESPONSE_LIMIT,
                client,
                tls,
                body=body,
                deadline_header=deadline_header,
            ),
            max_in_flight=max_in_flight,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            retry_on=is_retryable_http,
            rate=rate,
            breaker=breaker,
        )

    @staticmethod
    def http_batch(
        name: str,
        url: str,
        *,
        client: HttpClient | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        field: str | None = None,
        response: type[T] | Callable[[Any], T] | None = None,
        limit: int | None = None,
        tls: Tls | None = None,
        deadline_header: str | None = None,
        max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
        timeout: float = TIMEOUT,
        attempts: int = 1,
        backoff: Backoff | None = None,
        rate: float | None = None,
        breaker: Breaker | None = DEFAULT_BREAKER,
    ) -> Service[list[Any], list[T]]:
        """Make a service that sends one HTTP request for many values; for the step `batch`.

        The request is a JSON array of the values, or of their `field`. The response must be an array of the same length
        and order. An item `{"error": {"type": …, "message": …}}` fails its element alone, and so does a value that
        cannot be sent. `response` is the type of one item of the response, or a function that converts it. For `limit`,
        `tls` and `deadline_header` see `http`.

        >>> pricing = Service.http_batch("pricing", "http://prices", field="orderId")
        >>> step = Batch(pricing, size=50, max_wait=0.02)
        """
        from penstock.services.http_service import RESPONSE_LIMIT, HttpBatchCall, is_retryable_http

        convert = _converter(response)
        return Service(
            name,
            HttpBatchCall(
                name,
                url,
                method,
                headers or {},
                convert,
                limit or RESPONSE_LIMIT,
                client,
                tls,
                item_field=field,
                deadline_header=deadline_header,
            ),
            max_in_flight=max_in_flight,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            retry_on=is_retryable_http,
            rate=rate,
            breaker=breaker,
        )

    def __repr__(self) -> str:
        limit = self.adaptive_limit or self.max_in_flight
        return f"Service({self.name!r}, max_in_flight={limit}, attempts={self.attempts})"

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if is_service(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def _identity(self) -> tuple[Any, ...]:
        """The arguments it was made with. Services with equal arguments are equal, but each has its own bulkhead."""
        return (
            self.name,
            self.function,
            self.max_in_flight,
            self.adaptive_limit,
            self.timeout,
            self.attempts,
            self.backoff,
            self.retry_on,
            self.blocking,
            self.rate,
            self.breaker,
        )

    @property
    def shared_key(self) -> str:
        """A text by which processes that load the same flows recognize the service, to share its limits.

        Two services may have the same: of a function it contains only the name.
        """
        call = self.function
        name = getattr(call, "__qualname__", None) or type(call).__qualname__
        target = f"{getattr(call, 'method', '')} {getattr(call, 'url', '')}"
        limits = (self.max_in_flight, self.adaptive_limit, self.rate, self.timeout, self.attempts)
        return f"{self.name} {limits} {getattr(call, '__module__', '')}.{name} {target}"

    def share_rate(self, reserve: Callable[[float, float], float]) -> None:
        """Let `reserve` find the time slots of calls, which all processes share; nothing without a `rate`."""
        if self._rate_limiter is not None:
            self._rate_limiter.share(reserve)

    def statistics(self) -> ServiceStatistics:
        """Return counts of attempts so far, and of calls in flight and waiting now."""
        counts, circuit, now = self.bulkhead.counts, self.bulkhead.circuit, self.bulkhead.now
        return ServiceStatistics(
            results={
                "ok": counts.ok,
                "error": counts.errors,
                "timeout": counts.timeouts,
                "cancelled": counts.cancelled,
            },
            retries=counts.retries,
            in_flight=self.bulkhead.in_flight,
            waiting=self.bulkhead.waiting,
            max_in_flight=self.max_in_flight,
            paced_seconds=self.bulkhead.paced_seconds,
            limit=self.bulkhead.limit,
            breaker="none" if circuit is None else circuit.state,
            open_seconds=0.0 if circuit is None else circuit.open_seconds(now),
            opened=0 if circuit is None else circuit.opened,
            next_probe_seconds=None if circuit is None else circuit.next_probe_seconds(now),
            durations={result: histogram.copy() for result, histogram in counts.durations.items()},
            connections=self._connection_statistics() if self._connection_statistics is not None else None,
        )

    @property
    def is_open(self) -> bool:
        """Whether calls are held because the service is down. False as soon as it may be tried again."""
        circuit = self.bulkhead.circuit
        return circuit is not None and circuit.state == "open" and circuit.is_open(self.bulkhead.now)

    def with_function(self, call: Callable[[Any], Any], *, rng: random.Random | None = None) -> Service[Any, Any]:
        """Return a service with the same limits, another function and its own bulkhead; for tests."""
        return Service(
            self.name,
            call,
            max_in_flight=self.adaptive_limit or self.max_in_flight,
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            retry_on=self.retry_on,
            rate=self.rate,
            breaker=self.breaker,
            rng=rng,
        )

    def open_queue(
        self, on_results: ResultCallback, on_fault: Callable[[BaseException], None] | None = None
    ) -> CallQueue:
        """Open a queue for the calls of one step of one run. Close it after use.

        `on_results` receives results, several at a time. `on_fault` receives an exception that `on_results` raised.
        """
        return self.bulkhead.open_queue(on_results, on_fault)

    def retain(self) -> None:
        """Keep the tasks of the bulkhead while no run uses the service.

        Creating them again costs a tenth of a run of few calls. A supervisor retains the services of its flows; they
        belong to its event loop until it releases them.
        """
        self.bulkhead.retain()

    def release(self) -> list[asyncio.Future[Any]]:
        """Undo one `retain`. After the last one, the tasks end in the next iteration of the event loop.

        Return the futures to wait for, such as connections that close.
        """
        return self.bulkhead.release()


def _pacer_of(call: object) -> Pacer | None:
    pacer = getattr(call, "pacer", None)
    return pacer if isinstance(pacer, Pacer) else None


def _check_call(name: str, call: object, blocking: bool) -> None:
    """Raise `TypeError` if `call` is not callable, or does not return one response."""
    if not callable(call):
        raise TypeError(f"service {name}: expected a function to call, got {call!r}")
    if any(inspect.isasyncgenfunction(each) for each in functions_of(call)):
        raise TypeError(f"service {name}: expected a function that returns one response, got an async generator")
    if blocking and any(inspect.iscoroutinefunction(each) for each in functions_of(call)):
        raise TypeError(f"service {name}: a coroutine function does not block: leave out blocking=True")


def _check_limits(name: str, max_in_flight: int, timeout: float, attempts: int, rate: float | None) -> None:
    for option, number in (("max_in_flight", max_in_flight), ("attempts", attempts)):
        if number < 1 or number % 1:
            raise ValueError(f"service {name}: {option}: expected an integer >= 1, got {number}")
    if not timeout > 0:
        raise ValueError(f"service {name}: timeout: expected a number of seconds > 0, got {timeout!r}")
    if rate is not None and not rate > 0:
        raise ValueError(f"service {name}: rate: expected a number of calls per second > 0, got {rate!r}")


def is_service(call: object) -> TypeIs[Service[Any, Any]]:
    """Return whether a step was given a service, and not a function."""
    return isinstance(call, Service)


def functions_of(call: object) -> tuple[object, object]:
    """Return what may be a coroutine function: the callable, and its method `__call__` if it is an object."""
    return call, getattr(call, "__call__", None)  # noqa: B004 - the method itself is examined, not its presence


def _converter(response: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """Return the function that converts a response: to a type, also to one such as `list[int]`, by msgspec."""
    if isinstance(response, type) or typing.get_origin(response) is not None:
        return partial(msgspec.convert, type=response)
    return response


def _as_coroutine_function(
    call: Callable[[Any], Any], threads: ThreadPoolExecutor | None
) -> Callable[[Any], Awaitable[Any]]:
    if threads is not None:
        return lambda value: _in_thread(threads, call, value)
    if any(inspect.iscoroutinefunction(each) for each in functions_of(call)):
        return call

    async def respond(value: Any) -> Any:
        result = call(value)
        return await result if inspect.isawaitable(result) else result

    return respond


def _in_thread(threads: ThreadPoolExecutor, call: Callable[[Any], Any], value: Any) -> Awaitable[Any]:
    context = copy_context()
    return asyncio.get_running_loop().run_in_executor(
        threads, lambda: call_without_stop_iteration(lambda: context.run(call, value))
    )
