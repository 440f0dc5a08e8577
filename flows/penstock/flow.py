"""A flow, described: where its items' steps, its window and its dead letters are said once, and nothing runs yet.

Each method gives a new flow, so that a description can be shared and continued. What is wrong is said when it is built.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec
from reactivex import Observable

from penstock import operators, window
from penstock.deadletters import Store, make_store
from penstock.element import Element, Step
from penstock.errors import FlowError, RunError
from penstock.operators.each import name_of
from penstock.runtime.plan import Plan
from penstock.runtime.run import Run, Summary
from penstock.services import MAX_IN_FLIGHT, Service
from penstock.sinks import Outcomes, Result, Sink

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class NamedStep:
    """A step of a flow, and what is to be known of it from outside."""

    name: str
    kind: str
    apply: Step[Any, Any]
    services: tuple[Service, ...] = ()
    places: tuple[str, ...] = ()
    """The names that failures in this step carry, if they are not its own."""


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
        name = self._name(name or name_of(function, "map"))
        return self._with(NamedStep(name, "map", operators.map(function, name=name)))

    def filter(self, predicate: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Let through the values for which a predicate is true."""
        name = self._name(name or name_of(predicate, "filter"))
        return self._with(NamedStep(name, "filter", operators.filter(predicate, name=name)))

    def tap(self, look: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Call a plain, quick function with each value; the value goes on unchanged."""
        name = self._name(name or name_of(look, "tap"))
        return self._with(NamedStep(name, "tap", operators.tap(look, name=name)))

    def flat_map(
        self,
        function: Callable[[A], Iterable[B]],
        *,
        max_parts: int = operators.MAX_PARTS,
        name: str | None = None,
    ) -> Flow[B]:
        """Replace each value by the values of an iterable."""
        name = self._name(name or name_of(function, "flat_map"))
        return self._with(NamedStep(name, "flat_map", operators.flat_map(function, max_parts=max_parts, name=name)))

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
        name = self._name(name or service.name)
        step: Step[Any, Any] = operators.map_async(service, ordered=ordered, name=name)
        return self._with(NamedStep(name, "map_async", step, (service,)))

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
        name = self._name(name)
        step: Step[Any, Any] = operators.enrich(name=name, merge=merge, **asked)
        return self._with(NamedStep(name, "enrich", step, tuple(asked.values()), (*asked, name)))

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
        name = self._name(name or service.name)
        step: Step[Any, Any] = operators.batch(service, size=size, seconds=seconds, name=name)
        return self._with(NamedStep(name, "batch", step, (service,)))

    def throttle(self, rate: float, *, burst: int = 1, name: str = "throttle") -> Flow[A]:
        """Let elements through at a rate, in elements per second."""
        name = self._name(name)
        return self._with(NamedStep(name, "throttle", operators.throttle(rate, burst=burst, name=name)))

    def through(self, operator: Callable[[Observable[A]], Observable[B]], *, name: str = "through") -> Flow[B]:
        """Send the values through a synchronous operator of reactivex."""
        name = self._name(name)
        return self._with(NamedStep(name, "through", operators.through(operator, name=name)))

    def dead_letters(self, store: str | Store) -> Flow[A]:
        """Keep what failed in a store, given by its URL or itself. This ends the description."""
        if isinstance(store, str):
            make_store(store)  # a URL that names no store is to be said now
        return replace(self, store=store)

    @property
    def services(self) -> tuple[Service, ...]:
        """All services that the steps call."""
        return tuple({id(service): service for step in self.steps for service in step.services}.values())

    @property
    def measured(self) -> tuple[str, ...]:
        """The steps that measure how long elements spend in them."""
        own = (step.name for step in self.steps if step.kind not in ("flat_map", "through", "throttle"))
        return ("decode", *own, "encode")

    @property
    def places(self) -> tuple[str, ...]:
        """Where an element may fail: the names that failures carry."""
        named = (step.places or (step.name,) for step in self.steps)
        return ("source", "decode", *(name for names in named for name in names), "encode")

    def plan(self) -> Plan:
        """What a run needs to know."""
        return self._plan

    @cached_property
    def _plan(self) -> Plan:
        decode = operators.decode(self.item, key=self.key)
        steps = (decode, *(step.apply for step in self.steps))
        return Plan(self.name, steps, self.elements, self.bytes, self.store)

    def start(self, source: Observable[list[Element[Any]]], sink: Sink, *, ordered: bool = False) -> Run:
        """Start a run of its own, outside of any supervisor. `ordered` keeps the order of the input."""
        return Run(self.plan(), source, sink, ordered=ordered)

    async def stream(
        self, source: Observable[list[Element[Any]]], *, ordered: bool = False
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

    def _name(self, name: str) -> str:
        """The name, with a number behind it if the flow has a step of that name already."""
        if self.store is not None:
            raise FlowError(f"step {name} comes after dead_letters, which ends flow {self.name}; put it before")
        taken = {step.name for step in self.steps}
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        return unique

    def _with(self, step: NamedStep) -> Flow[Any]:
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
