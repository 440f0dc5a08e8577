"""Describe a flow: its steps, its window and its dead letters. Nothing runs here.

Each method returns a new flow, so a description can be shared and continued. Errors are raised while it is built.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from re import fullmatch
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from reactivex import Observable

from penstock.core import window
from penstock.core.element import Element, Operator
from penstock.deadletters import DeadLetterStore, validate_store_url
from penstock.errors import FlowDefinitionError
from penstock.flow.item_type import FIELD, field_hint, fields_of, item_type_error
from penstock.flow.serving import ServingOptions, Worker
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime.run import Run
from penstock.runtime.schedule import Once, Schedule, validate_schedule
from penstock.runtime.stream import Results
from penstock.runtime.summary import Summary
from penstock.runtime.wiring import RunPlan
from penstock.services import MAX_IN_FLIGHT, Service
from penstock.sinks import Sink
from penstock.sources import Source
from penstock.steps import (
    Batch,
    Branch,
    CustomOperator,
    Enrich,
    Fail,
    Filter,
    FlatMap,
    Map,
    MapAsync,
    MemoryBound,
    Merge,
    Route,
    Step,
    Tap,
    Throttle,
    Through,
    To,
    decode,
    walk,
)
from penstock.steps.fail import DEFAULT_TYPE
from penstock.steps.flat_map import MAX_PARTS
from penstock.steps.step import as_service
from penstock.steps.through import MAX_PARTS as THROUGH_PARTS
from penstock.support.text import suggest

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    A = TypeVarWithDefault("A", default=Any)  # `Flow("name")` is a flow of any items
else:
    A = TypeVar("A")

B = TypeVar("B")

__all__ = ["Flow", "Otherwise", "ServingOptions", "When", "Worker"]


@dataclass(frozen=True, slots=True)
class When:
    """A branch of `route` for the values for which a condition is true.

    `steps` adds the steps of the branch to an empty flow. Values at the end of the branch continue after `route`; with
    `final` they are results.
    """

    condition: Callable[[Any], object]
    steps: Callable[[Flow[Any]], Flow[Any]] | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A branch of `route` for the values that no other branch takes."""

    steps: Callable[[Flow[Any]], Flow[Any]] | None = None
    final: bool = False


@dataclass(frozen=True)  # with slots too, `Flow[int]("name")` raises TypeError on Python 3.11
class Flow(Generic[A]):
    """A description of what happens to items, from decoding to dead letters.

    >>> flow = Flow("doubles").map(lambda number: number * 2, name="double").filter(lambda number: number > 2)

    `item` is the type of the input (see `decode`), `key` the field that identifies an item in results and dead
    letters. `elements` and `bytes` are the window: how many items, and how many bytes of input, one run may hold.

    Each method returns the flow with one more step or option. A value whose function raises, or whose call fails after
    its last attempt, fails at that step; the others continue. A step is named after its function unless `name` is
    given; a name that is taken gets a number. Options out of range raise `ValueError`, steps that make no sense
    `FlowDefinitionError`, both at once. When a step backpressures and completes is documented in `penstock.steps`.
    """

    name: str
    item: type[A] | None = None
    key: str | None = None
    elements: int = window.ELEMENTS
    bytes: int = window.BYTES
    steps: tuple[Step, ...] = field(default=(), kw_only=True)
    store: str | DeadLetterStore | None = field(default=None, kw_only=True)
    redacted: tuple[str, ...] = field(default=(), kw_only=True)
    """Paths of fields that are removed from dead letters: `card.number`."""
    ordered: bool = field(default=False, kw_only=True)
    """Whether results are in input order. A run may override it."""
    sample_factory: Callable[[int], Any] | None = field(default=None, kw_only=True)
    """Returns the sample item with a number, from 1."""
    workers: tuple[Worker, ...] = field(default=(), kw_only=True)
    serving: ServingOptions = field(default_factory=lambda: ServingOptions(), kw_only=True)
    description: str = field(default="", kw_only=True)
    _outer_names: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False, compare=False)
    """Names of steps outside of the branch that this flow is."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise FlowDefinitionError(f"invalid flow name {self.name!r}: use letters, digits, - and _")
        if isinstance(cast(object, self.item), str):
            raise FlowDefinitionError(
                f"flow {self.name}: item: expected a type, got {self.item!r}; did you mean key={self.item!r}?"
            )
        check_item(self.item)
        if not isinstance(cast(object, self.key), str | None):
            raise FlowDefinitionError(f"flow {self.name}: key: expected the name of a field, got {self.key!r}")
        for option, value in (("elements", self.elements), ("bytes", self.bytes)):
            if value < 1 or value % 1:
                raise FlowDefinitionError(f"flow {self.name}: {option}: expected an integer >= 1, got {value}")
        fields = fields_of(self.item)
        if self.key is not None and fields is not None and self.key not in fields:
            raise FlowDefinitionError(
                f"flow {self.name}: key: the item has no field {self.key!r}{field_hint(self.key, fields)}"
            )

    def map(self, function: Callable[[A], B], *, name: str | None = None) -> Flow[B]:
        """Replace each value by the result of a plain, quick function. A function that waits belongs in `map_async`."""
        return self.step(Map(function, name=name or ""))

    def filter(self, predicate: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Keep the values for which a predicate is true; settle the others as filtered."""
        return self.step(Filter(predicate, name=name or ""))

    def fail(
        self,
        when: Callable[[A], object] | None = None,
        *,
        reason: str | Callable[[A], object],
        type: str = DEFAULT_TYPE,
        name: str | None = None,
    ) -> Flow[A]:
        """Fail the values for which a condition is true, or all values without one; they become dead letters.

        `reason` becomes the message: a text in which `{field}` stands for a field of the value, or a function that
        computes it. `type` is the type of the failure.
        """
        return self.step(Fail(when, reason=reason, type=type, name=name or ""))

    def tap(self, function: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Call a plain, quick function with each value; the value continues unchanged."""
        return self.step(Tap(function, name=name or ""))

    def flat_map(
        self, items: Callable[[A], Iterable[B]], *, max_parts: int = MAX_PARTS, name: str | None = None
    ) -> Flow[B]:
        """Replace each value by the values of an iterable, its parts. An element is settled when all its parts are.

        At most `max_parts` of one run are in flight, so the iterable may be endless.
        """
        return self.step(FlatMap(items, max_parts=max_parts, name=name or ""))

    def map_async(
        self,
        service: Callable[[A], Any] | Service,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout: float = 30.0,
        attempts: int = 1,
        ordered: bool = False,
        name: str | None = None,
    ) -> Flow[Any]:
        """Replace each value by the response of a coroutine function or a `Service`.

        A function becomes a service with `max_in_flight` calls in flight, and `timeout` seconds for each of `attempts`.
        A `Service` has its own limits. With `ordered`, elements continue in input order.
        """
        called = as_service(
            service, name, default="map_async", max_in_flight=max_in_flight, timeout=timeout, attempts=attempts
        )
        return self.step(MapAsync(called, ordered=ordered, name=name or ""))

    def enrich(
        self,
        services: Mapping[str, Service | Callable[[Any], Any]] | None = None,
        /,
        *,
        name: str = "enrich",
        merge: Merge | None = None,
        **more: Service | Callable[[Any], Any],
    ) -> Flow[Any]:
        """Call several services concurrently and merge their responses into the value by name.

        A dict gets a key for each response, a Struct or dataclass its field of that name; for other values pass
        `merge(value, responses)`. Pass a mapping of services for responses called `name` or `merge`. A function becomes
        a service with 256 calls in flight and one attempt of 30 s. A value fails at the service that failed.
        """
        if isinstance(cast(object, name), Service) or isinstance(cast(object, merge), Service):
            raise FlowDefinitionError("enrich: name and merge are options; write enrich({'name': service})")
        if services is not None and not isinstance(cast(object, services), Mapping):
            raise FlowDefinitionError("enrich: each service needs a name for its response: enrich(pricing=price_of)")
        named = {**(services or {}), **more}
        fields = None if typing.is_typeddict(self.item) or self.steps or merge else fields_of(self.item)
        for key in named:
            if fields is not None and key not in fields:
                raise FlowDefinitionError(
                    f"enrich: {getattr(self.item, '__name__', self.item)} has no field {key!r} for the response; "
                    f"add the field, or pass merge={field_hint(key, fields)}"
                )
        called = {key: as_service(service, key, default=key) for key, service in named.items()}
        return self.step(Enrich(called, merge=merge, name=name))

    def batch(
        self,
        service: Callable[[list[A]], Any] | Service,
        *,
        size: int,
        max_wait: float,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout: float = 30.0,
        attempts: int = 1,
        name: str | None = None,
    ) -> Flow[Any]:
        """Collect values, call a service once for all of them, and replace each by its own response.

        The call is made when `size` values are there, or the first has waited for `max_wait` seconds. It receives a
        list and returns a list of the same length and order; an exception in it fails its value alone. The other
        options are those of `map_async`.
        """
        called = as_service(
            service,
            name,
            default="batch",
            batch=True,
            max_in_flight=max_in_flight,
            timeout=timeout,
            attempts=attempts,
        )
        return self.step(Batch(called, size=size, max_wait=max_wait, name=name or ""))

    def throttle(self, rate: float, *, burst: int = 1, name: str = "throttle") -> Flow[A]:
        """Limit the rate, in elements per second, with up to `burst` at once after a pause."""
        return self.step(Throttle(rate, burst=burst, name=name))

    def through(
        self,
        operator: Callable[[Observable[A]], Observable[B]],
        *,
        max_parts: int = THROUGH_PARTS,
        name: str = "through",
    ) -> Flow[B]:
        """Send the values through a synchronous operator of reactivex, such as `distinct_until_changed()`.

        One value that the operator emits replaces its input, none filters it, several (at most `max_parts`) become its
        parts. A value that the operator emits when it completes becomes a new element. An operator that emits on
        subscription, such as `start_with`, is rejected: put those values into the source.
        """
        return self.step(Through(operator, max_parts=max_parts, name=name))

    def route(
        self, branches: Mapping[str, When | Otherwise] | None = None, *, name: str = "route", **more: When | Otherwise
    ) -> Flow[Any]:
        """Send each value along the first branch whose condition is true; values that no branch takes continue.

        >>> flow = Flow("parcels").route(
        ...     heavy=When(lambda parcel: parcel["kg"] > 30, lambda heavy: heavy.map(by_truck), final=True),
        ...     light=Otherwise(lambda light: light.map(by_bike)),
        ... )
        """
        named = {**(branches or {}), **more}
        if not named:
            raise FlowDefinitionError("route: expected at least one branch: route(big=When(is_big, steps))")
        name = self._unique_name(name)
        taken = {*self._used_names, name}
        cases: list[Branch] = []
        for key, branch in named.items():
            where = f"branch {key} of {name}"
            if not isinstance(cast(object, branch), (When, Otherwise)):
                raise FlowDefinitionError(
                    f"{where}: expected When(condition, steps) or Otherwise(steps), got {branch!r}"
                )
            empty = self._branch(frozenset(taken))
            steps = () if branch.steps is None else _steps_of(empty, branch.steps(empty), where)
            taken |= {step.name for step in walk(steps)}
            cases.append(Branch(key, branch.condition if isinstance(branch, When) else None, steps, branch.final))
        return self.step(Route(tuple(cases), name=name))

    def to(self, *sinks: Sink, timeout: float = 30.0, name: str = "to") -> Flow[A]:
        """Write each value to sinks; it continues, unchanged, when all of them have accepted it.

        `timeout` is in seconds, for opening a sink and for one write. A value that a sink rejects fails. If a sink
        cannot be opened, the values of that write fail; the others wait for the next attempt.
        """
        return self.step(To(sinks, timeout=timeout, name=name))

    def operator(self, operator: Operator[A, B], *, max_parts: int = 0, name: str | None = None) -> Flow[B]:
        """Add an operator of your own, on streams of elements.

        `max_parts` is how many parts it may have in flight; it counts into the memory bound.
        """
        return self.step(CustomOperator(operator, max_parts=max_parts, name=name or ""))

    def step(self, step: Step) -> Flow[Any]:
        """Add a step as a record, such as one of your own. A name that is taken gets a number."""
        if self.store is not None and not self._outer_names:
            raise FlowDefinitionError(f"step {step.name}: no step may follow dead_letters; put it before")
        return replace(self, steps=(*self.steps, replace(step, name=self._unique_name(step.name))))

    def apply(self, steps: Callable[[Flow[A]], Flow[B]]) -> Flow[B]:
        """Add steps that several flows share: a function from flow to flow."""
        return steps(self)

    def window(self, elements: int, bytes: int | None = None) -> Flow[A]:
        """Set the window: how many elements, and how many bytes of input, one run may hold."""
        return replace(self, elements=elements, bytes=self.bytes if bytes is None else bytes)

    def dead_letters(self, store: str | DeadLetterStore, *, redact: Iterable[str] = ()) -> Flow[A]:
        """Keep failed elements in a store, given as an object or its URL. No step may follow.

        `redact` are paths of fields that are removed from dead letters: `card.number`.
        """
        if isinstance(store, str):
            validate_store_url(store)
        elif not hasattr(store, "add"):
            raise FlowDefinitionError(f"dead_letters: expected a store such as 'sqlite:///FILE', got {store!r}")
        if isinstance(redact, str):
            raise FlowDefinitionError(f"redact: expected a list of paths: redact=[{redact!r}]")
        paths = tuple(redact)
        if wrong := [path for path in paths if not isinstance(cast(object, path), str) or not fullmatch(FIELD, path)]:
            raise FlowDefinitionError(
                f"redact: expected names of fields with dots between them, such as card.number, got {wrong[0]!r}"
            )
        return replace(self, store=store, redacted=paths)

    def order(self) -> Flow[A]:
        """Return results in input order."""
        return replace(self, ordered=True)

    def samples(self, make: Callable[[int], A]) -> Flow[A]:
        """Set the function that returns the sample item with a number, from 1."""
        return replace(self, sample_factory=make)

    def worker(self, name: str, source: Source[Any], schedule: Schedule | None = None) -> Flow[A]:
        """Add a worker: a run in the background of the service, once unless a schedule is given."""
        validate_schedule(schedule)
        if any(worker.name == name for worker in self.workers):
            raise FlowDefinitionError(f"flow {self.name} already has a worker called {name!r}")
        return replace(self, workers=(*self.workers, Worker(name, source, schedule or Once())))

    def serve(
        self,
        name: str | None = None,
        *,
        http: bool = True,
        max_runs: int | None = None,
        max_line: int | None = None,
        max_body: int | None = None,
        max_count: int | None = None,
    ) -> Flow[A]:
        """Set how the flow is served over HTTP; see `ServingOptions`."""
        return replace(self, serving=ServingOptions(name, http, max_runs, max_line, max_body, max_count))

    def services(self, others: Mapping[str, Service]) -> Flow[A]:
        """Replace the services with these names. Raises `FlowDefinitionError` for a name that the flow does not have.

        >>> flow = orders.services({"pricing": Service("pricing", lambda order: {"price": 1})})
        """
        _check_known(self.name, "service", others, [service.name for service in self.all_services])
        return replace(self, steps=tuple(step.with_services(others) for step in self.steps))

    def sinks(self, others: Mapping[str, Sink]) -> Flow[A]:
        """Replace the sinks with these names. Raises `FlowDefinitionError` for a name that the flow does not have."""
        _check_known(self.name, "sink", others, self.all_sinks)
        return replace(self, steps=tuple(step.with_sinks(others) for step in self.steps))

    @property
    def path_name(self) -> str | None:
        """The name in the path, if the flow is served over HTTP."""
        return (self.serving.name or self.name) if self.serving.http else None

    @property
    def dead_letter_url(self) -> str | None:
        """The URL of the dead-letter store; None without a store."""
        return self.store if self.store is None or isinstance(self.store, str) else self.store.url

    @property
    def all_services(self) -> tuple[Service, ...]:
        """The services that the steps call, each once."""
        called = (service for step in walk(self.steps) for service in step.services.values())
        return tuple({id(service): service for service in called}.values())

    @property
    def all_sinks(self) -> dict[str, Sink]:
        """The sinks that the steps write to, by name."""
        return {name: sink for step in walk(self.steps) for name, sink in step.sinks.items()}

    @property
    def timed_steps(self) -> tuple[str, ...]:
        """The steps that measure how long elements spend in them."""
        return ("decode", *(step.name for step in walk(self.steps) if step.is_timed), "encode")

    @property
    def failure_points(self) -> tuple[str, ...]:
        """Where an element can fail: the names that failures have."""
        points = (point for step in walk(self.steps) for point in step.failure_points)
        return ("source", "decode", *points, "encode")

    @cached_property
    def memory_bound(self) -> MemoryBound:
        """The maximum that one run can hold."""
        return MemoryBound.of(self.steps, elements=self.elements, bytes=self.bytes)

    def plan(self) -> RunPlan:
        """Return what a run needs."""
        return self._plan

    @cached_property
    def _plan(self) -> RunPlan:
        steps = (decode(self.item, key=self.key), *(step.operator() for step in self.steps))
        return RunPlan(
            self.name,
            steps,
            self.elements,
            self.bytes,
            self.memory_bound.elements,
            self.store,
            self.redacted,
            self.ordered,
        )

    def start(
        self,
        source: Observable[list[Element[Any]]],
        consumer: ResultConsumer | None = None,
        *,
        ordered: bool | None = None,
    ) -> Run:
        """Start a run and return it, to drain or to abort it: `await run.finished` gives its summary.

        `consumer` takes the results, such as `LineWriter`; without one they are discarded. `ordered` keeps the order of
        the input.
        """
        return Run(self.plan(), source, DiscardResults() if consumer is None else consumer, ordered=ordered)

    async def run(
        self,
        source: Observable[list[Element[Any]]],
        consumer: ResultConsumer | None = None,
        *,
        ordered: bool | None = None,
    ) -> Summary:
        """Run the flow until the source has ended and all elements are settled.

        `consumer` takes the results, such as `LineWriter`; without one they are discarded. The summary of a run that
        failed has the reason `failed` and its `error`. A cancel aborts the run and waits for its end.

        >>> summary = await flow.run(from_file("orders.ndjson"))
        """
        run = self.start(source, consumer, ordered=ordered)
        try:
            return await run.finished
        except BaseException:
            run.abort()
            await run.finished
            raise

    def stream(self, source: Observable[list[Element[Any]]], *, ordered: bool | None = None) -> Results[Any]:
        """Run the flow and take its results one by one, each as soon as it is ready; see `Results`.

        `ordered` keeps the order of the input.

        >>> async with flow.stream(source) as results:
        ...     async for result in results:
        ...         print(result.value if result.ok else result.failure)
        """
        return Results(partial(self.start, source, ordered=ordered))

    @property
    def _used_names(self) -> frozenset[str]:
        """The names that further steps cannot have: those of all steps, also outside of this branch."""
        return self._outer_names | {step.name for step in walk(self.steps)}

    def _unique_name(self, name: str) -> str:
        """Return the name, with a number if a step has it."""
        taken = self._used_names
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        return unique

    def _branch(self, taken: frozenset[str]) -> Flow[Any]:
        """Return an empty flow for the steps of a branch, which must not have names that are taken."""
        return replace(self, item=None, key=None, steps=(), _outer_names=taken)


def check_item(item: Any) -> None:
    """Raise `FlowDefinitionError` for a type that items cannot be decoded to."""
    if item is None:
        return
    error = item_type_error(item) if isinstance(item, Hashable) else "not a type"
    if error is not None:
        raise FlowDefinitionError(
            f"item: expected a type that JSON can be decoded to, such as a TypedDict or a Struct, got {item!r}: {error}"
        )


def _check_known(flow: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `FlowDefinitionError` for a name that a flow does not have: a replacement must not be ignored."""
    known = list(known)
    for name in names:
        if name not in known:
            nearest = suggest(name, known)
            hint = f"did you mean {nearest!r}?" if nearest else f"{kind}s: {', '.join(known) or 'none'}"
            raise FlowDefinitionError(f"flow {flow} has no {kind} {name!r}; {hint}")


def _steps_of(empty: Flow[Any], branch: Flow[Any], where: str) -> tuple[Step, ...]:
    """Return the steps of a branch. Raise for options of a flow, which would be ignored in a branch."""
    if not isinstance(cast(object, branch), Flow):
        raise FlowDefinitionError(f"{where}: expected a function that returns the flow with its steps, got {branch!r}")
    options = {
        "dead_letters": branch.store is not None and branch.store is not empty.store,
        "order": branch.ordered and not empty.ordered,
        "window": branch.name == empty.name and (branch.elements, branch.bytes) != (empty.elements, empty.bytes),
        "samples": branch.sample_factory is not None and branch.sample_factory is not empty.sample_factory,
        "worker": bool(branch.workers) and branch.workers != empty.workers,
    }
    for option, is_set in options.items():
        if is_set:
            raise FlowDefinitionError(f"{where}: a branch has steps only; set {option} on the flow itself")
    return branch.steps
