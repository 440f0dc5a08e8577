"""A flow, described: where its items' steps, its window and its dead letters are said once, and nothing runs yet.

Each method gives a new flow, so that a description can be shared and continued. What is wrong is said when it is built.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec
from reactivex import Observable

from penstock import operators, window
from penstock.bound import Bound, bound_of
from penstock.deadletters import Store, check_store
from penstock.element import Element, Step
from penstock.errors import FlowError, RunError
from penstock.operators.each import name_of
from penstock.operators.through import MAX_PARTS as THROUGH_PARTS
from penstock.outlets import Outlet
from penstock.runtime.plan import Plan
from penstock.runtime.run import Run, Summary
from penstock.runtime.schedule import Once, Schedule
from penstock.services import MAX_IN_FLIGHT, Service
from penstock.sinks import Outcomes, Result, Sink
from penstock.sources import Source
from penstock.steps import NamedStep, Way, walk

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class When:
    """A branch for the values for which a condition holds: `steps` continues an empty flow with the branch's own steps.

    What reaches the branch's end goes on with the steps behind the branches, or, with `end`, is finished.
    """

    condition: Callable[[Any], object]
    steps: Callable[[Flow[Any]], Flow[Any]] | None = None
    end: bool = False


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A branch for the values that no other branch took."""

    steps: Callable[[Flow[Any]], Flow[Any]] | None = None
    end: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """A run of a flow in the background: where its items come from, and when it runs."""

    name: str
    source: Source[Any]
    schedule: Schedule = field(default_factory=Once)


@dataclass(frozen=True, slots=True)
class Serving:
    """How a flow is served over HTTP, at `/NAME/bulk`. A limit that is None is the service's own."""

    name: str | None = None
    """The name in its path; None for the flow's own."""
    http: bool = True
    """False for a flow that only its workers run."""
    max_runs: int | None = None
    """Streams of this flow that may be open at once."""
    max_line: int | None = None
    """Bytes that one line may have."""
    max_body: int | None = None
    """Bytes that a JSON body, or an answer in one piece, may have."""
    max_count: int | None = None
    """Samples that one GET may ask for."""


@dataclass(frozen=True)  # with slots too, `Flow[int]("name")` raises TypeError on Python 3.11
class Flow(Generic[A]):
    """A description of what happens to items, from their reading to their dead letters.

    >>> flow = Flow("doubles").map(lambda number: number * 2, name="double").filter(lambda number: number > 2)

    `item` is the type of what comes in (see `decode`), `key` the field that tells items apart for people. `elements`
    and `bytes` are the window: how many items, and how many bytes of input, one run may hold.
    """

    name: str
    item: type[A] | None = None
    key: str | None = None
    elements: int = window.ELEMENTS
    bytes: int = window.BYTES
    steps: tuple[NamedStep, ...] = field(default=(), kw_only=True)
    store: str | Store | None = field(default=None, kw_only=True)
    redacted: tuple[str, ...] = field(default=(), kw_only=True)
    """Fields that dead letters do not keep, as paths: `card.number`."""
    ordered: bool = field(default=False, kw_only=True)
    """Whether results keep the order of the input unless a run is asked otherwise."""
    samples: Callable[[int], Any] | None = field(default=None, kw_only=True)
    """Makes the sample item of a number, from 1 on."""
    workers: tuple[Worker, ...] = field(default=(), kw_only=True)
    serving: Serving = field(default_factory=lambda: Serving(), kw_only=True)
    about: str = field(default="", kw_only=True)
    _taken: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False, compare=False)
    """Names of steps outside of the branch that this flow is."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise FlowError(f"a flow is named with letters, digits, - and _, got {self.name!r}")
        if self.elements < 1 or self.bytes < 1:
            raise FlowError(
                f"flow {self.name} needs a window of at least 1 element and 1 byte, "
                f"got {self.elements} and {self.bytes}"
            )
        fields = fields_of(self.item)
        if self.key is not None and fields is not None and self.key not in fields:
            raise FlowError(f"flow {self.name} has no field {self.key!r} for its key{_nearest(self.key, fields)}")

    def window(self, elements: int, bytes: int | None = None) -> Flow[A]:
        """The same flow with another window."""
        return replace(self, elements=elements, bytes=self.bytes if bytes is None else bytes)

    def map(self, function: Callable[[A], B], *, name: str | None = None) -> Flow[B]:
        """Replace each value by what a plain, quick function makes of it."""
        return self._with("map", name or name_of(function, "map"), function=function)

    def filter(self, predicate: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Let through the values for which a predicate is true."""
        return self._with("filter", name or name_of(predicate, "filter"), predicate=predicate)

    def tap(self, look: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Call a plain, quick function with each value; the value goes on unchanged."""
        return self._with("tap", name or name_of(look, "tap"), look=look)

    def flat_map(
        self,
        function: Callable[[A], Iterable[B]],
        *,
        max_parts: int = operators.MAX_PARTS,
        name: str | None = None,
    ) -> Flow[B]:
        """Replace each value by the values of an iterable."""
        name = name or name_of(function, "flat_map")
        return self._with("flat_map", name, function=function, max_parts=max_parts)

    def map_async(
        self,
        call: Callable[[A], Any] | Service,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout: float = 30.0,
        attempts: int = 1,
        ordered: bool = False,
        name: str | None = None,
    ) -> Flow[Any]:
        """Replace each value by the answer of a coroutine function or a `Service`."""
        service = _service(name, "map_async", call, max_in_flight, timeout, attempts)
        return self._with("map_async", name or service.name, call=service, ordered=ordered)

    def enrich(
        self,
        *,
        name: str = "enrich",
        merge: operators.Merge | None = None,
        **services: Service | Callable[[Any], Any],
    ) -> Flow[A]:
        """Ask several services side by side and merge their answers into the value by name."""
        if not services:
            raise FlowError(f"enrich in flow {self.name} needs at least one service: enrich(pricing=price_of)")
        fields = None if typing.is_typeddict(self.item) or self.steps or merge else fields_of(self.item)
        for key in services:
            if fields is not None and key not in fields:
                raise FlowError(
                    f"enrich in flow {self.name} has no field {key!r} to put the answer in; "
                    f"give {getattr(self.item, '__name__', self.item)} that field, or pass merge="
                    f"{_nearest(key, fields)}"
                )
        asked = {key: _service(key, key, service) for key, service in services.items()}
        return self._with("enrich", name, services=asked, merge=merge)

    def batch(
        self,
        call: Callable[[list[A]], Any] | Service,
        *,
        size: int,
        seconds: float,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout: float = 30.0,
        attempts: int = 1,
        name: str | None = None,
    ) -> Flow[Any]:
        """Gather values, ask a service once for all of them, and give each its own answer."""
        service = _service(name, "batch", call, max_in_flight, timeout, attempts)
        return self._with("batch", name or service.name, call=service, size=size, seconds=seconds)

    def throttle(self, rate: float, *, burst: int = 1, name: str = "throttle") -> Flow[A]:
        """Let elements through at a rate, in elements per second."""
        return self._with("throttle", name, rate=rate, burst=burst)

    def through(
        self,
        operator: Callable[[Observable[A]], Observable[B]],
        *,
        max_parts: int = THROUGH_PARTS,
        name: str = "through",
    ) -> Flow[B]:
        """Send the values through a synchronous operator of reactivex."""
        return self._with("through", name, operator=operator, max_parts=max_parts)

    def route(
        self, ways: Mapping[str, When | Otherwise] | None = None, *, name: str = "route", **more: When | Otherwise
    ) -> Flow[Any]:
        """Send each value along the first branch whose condition holds; what no branch takes goes on as it is.

        >>> flow = Flow("parcels").route(
        ...     heavy=When(lambda parcel: parcel["kg"] > 30, lambda heavy: heavy.map(by_truck), end=True),
        ...     light=Otherwise(lambda light: light.map(by_bike)),
        ... )
        """
        branches = {**(ways or {}), **more}
        if not branches:
            raise FlowError(f"route in flow {self.name} needs at least one branch: route(big=When(is_big, steps))")
        if any(isinstance(branch, Otherwise) for branch in list(branches.values())[:-1]):
            raise FlowError(f"route in flow {self.name} has a branch behind Otherwise, which leaves nothing for it")
        taken = {*self._names(), name}
        made: list[Way] = []
        for key, branch in branches.items():
            fork = replace(self, item=None, key=None, steps=(), _taken=frozenset(taken))
            steps = fork.steps if branch.steps is None else branch.steps(fork).steps
            taken |= {step.name for step in walk(steps)}
            made.append(Way(key, branch.condition if isinstance(branch, When) else None, steps, branch.end))
        return self._with("route", name, ways=tuple(made))

    def to(self, *outlets: Outlet, timeout: float = 30.0, name: str = "to") -> Flow[A]:
        """Hand each value to outlets; it goes on, unchanged, when all of them took it. `timeout` is for one write."""
        if not outlets:
            raise FlowError(f"to in flow {self.name} needs at least one outlet: to(FileOutlet('out.ndjson'))")
        return self._with("to", name, outlets=outlets, timeout=timeout)

    def step(self, step: Step[A, B], *, max_parts: int = 0, name: str | None = None) -> Flow[B]:
        """Continue with an operator of your own, on streams of elements, that has at most `max_parts` parts open."""
        return self._with("step", name or name_of(step, "step"), step=step, max_parts=max_parts)

    def apply(self, steps: Callable[[Flow[A]], Flow[B]]) -> Flow[B]:
        """Continue with steps that are written down once and used by many flows: a function from flow to flow."""
        return steps(self)

    def dead_letters(self, store: str | Store, *, redact: Iterable[str] = ()) -> Flow[A]:
        """Keep what failed in a store, given by its URL or itself. This ends the description.

        `redact` names fields that letters do not keep, as paths: `card.number`.
        """
        if isinstance(store, str):
            check_store(store)  # a URL that names no store is to be said now
        return replace(self, store=store, redacted=tuple(redact))

    def in_order(self) -> Flow[A]:
        """The same flow, whose results keep the order of the input."""
        return replace(self, ordered=True)

    def with_samples(self, make: Callable[[int], A]) -> Flow[A]:
        """The same flow, with a function that makes the sample item of a number, from 1 on."""
        return replace(self, samples=make)

    def worker(self, name: str, source: Source[Any], schedule: Schedule | None = None) -> Flow[A]:
        """The same flow with one worker more, which the service runs in the background; once unless told otherwise."""
        if any(worker.name == name for worker in self.workers):
            raise FlowError(f"flow {self.name} has two workers of the name {name!r}; give each its own")
        return replace(self, workers=(*self.workers, Worker(name, source, schedule or Once())))

    def served(
        self,
        name: str | None = None,
        *,
        http: bool = True,
        max_runs: int | None = None,
        max_line: int | None = None,
        max_body: int | None = None,
        max_count: int | None = None,
    ) -> Flow[A]:
        """The same flow, served in another way; see `Serving`."""
        return replace(self, serving=Serving(name, http, max_runs, max_line, max_body, max_count))

    def with_services(self, others: Mapping[str, Service]) -> Flow[A]:
        """The same flow, calling other services in the place of those with these names."""
        return replace(self, steps=tuple(step.with_services(others) for step in self.steps))

    def with_outlets(self, others: Mapping[str, Outlet]) -> Flow[A]:
        """The same flow, handing values to other outlets in the place of those with these names."""
        return replace(self, steps=tuple(step.with_outlets(others) for step in self.steps))

    @property
    def outlets(self) -> dict[str, Outlet]:
        """All outlets that the steps hand values to, by name."""
        return {name: outlet for step in walk(self.steps) for name, outlet in step.outlets.items()}

    @property
    def services(self) -> tuple[Service, ...]:
        """All services that the steps call."""
        return tuple({id(service): service for step in walk(self.steps) for service in step.services}.values())

    @property
    def measured(self) -> tuple[str, ...]:
        """The steps that measure how long elements spend in them."""
        own = (step.name for step in walk(self.steps) if step.kind not in ("flat_map", "through", "throttle", "route"))
        return ("decode", *own, "encode")

    @property
    def places(self) -> tuple[str, ...]:
        """Where an element may fail: the names that failures carry."""
        named = (step.places for step in walk(self.steps))
        return ("source", "decode", *(name for names in named for name in names), "encode")

    def plan(self) -> Plan:
        """What a run needs to know."""
        return self._plan

    @cached_property
    def _plan(self) -> Plan:
        decode = operators.decode(self.item, key=self.key)
        steps = (decode, *(step.apply for step in self.steps))
        return Plan(
            self.name, steps, self.elements, self.bytes, self.bound.elements, self.store, self.redacted, self.ordered
        )

    @cached_property
    def bound(self) -> Bound:
        """What one run can hold at the most."""
        return bound_of(self.steps, elements=self.elements, bytes=self.bytes)

    def start(self, source: Observable[list[Element[Any]]], sink: Sink, *, ordered: bool | None = None) -> Run:
        """Start a run of its own, outside of any supervisor. `ordered` keeps the order of the input."""
        return Run(self.plan(), source, sink, ordered=ordered)

    async def stream(
        self, source: Observable[list[Element[Any]]], *, ordered: bool | None = None
    ) -> AsyncGenerator[Result, None]:
        """The results of a run, as they come. Stop asking, and the source stops; leave, and the run is cancelled.

        Leaving the loop by `break` cancels a little later, when Python closes the generator; to have it at once, use
        `async with contextlib.aclosing(flow.stream(source)) as results`. Raises `RunError` if the flow itself breaks.
        """
        sink = Outcomes()
        run = self.start(source, sink, ordered=ordered)
        try:
            while (result := await sink.next()) is not None:
                yield result
            summary: Summary = await run.finished
            if summary.error is not None:
                raise RunError(summary.error)
        finally:
            run.abort()
            await run.finished

    def _names(self) -> set[str]:
        """The names of all steps, those around the branch that this flow may be included."""
        return {*self._taken, *(step.name for step in walk(self.steps))}

    def _with(self, kind: str, name: str, **options: Any) -> Flow[Any]:
        """The flow with one step more. A name that is taken gets a number behind it."""
        if self.store is not None and not self._taken:
            raise FlowError(f"step {name} comes after dead_letters, which ends flow {self.name}; put it before")
        taken = self._names()
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        step = NamedStep(kind, unique, options)
        _ = step.apply  # options out of bounds are to be said now
        return replace(self, steps=(*self.steps, step))


def _service(
    name: str | None,
    default: str,
    call: Any,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
) -> Service:
    """The service that a step calls; one is made of a plain function."""
    if isinstance(call, Service):
        return call
    if not callable(call):
        raise FlowError(f"{name or default} has to be a function or a Service, got {call!r}")
    title = name or name_of(call, default)
    return Service(title, call, max_in_flight=max_in_flight, timeout=timeout, attempts=attempts)


def fields_of(item: Any) -> list[str] | None:
    """The fields that a type of items has; None when it does not say."""
    if typing.is_typeddict(item):
        return list(typing.get_type_hints(item))
    if isinstance(item, type) and issubclass(item, msgspec.Struct):
        return list(item.__struct_fields__)
    if isinstance(item, type) and dataclasses.is_dataclass(item):
        return [field.name for field in dataclasses.fields(item)]
    return None


def _nearest(name: str, names: list[str]) -> str:
    """What a mistyped name may have meant, and what there is."""
    close = get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (fields: {', '.join(names)})"
