"""Describe a flow: its steps, its window and its dead letters. Nothing runs here.

Each method returns a new flow, so a description can be shared and continued. Errors are raised while it is built.
"""

from __future__ import annotations

import builtins
import typing
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import inf
from re import fullmatch
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, cast, final, overload

from msgspec import Struct
from reactivex import Observable
from typing_extensions import TypeVar

from penstock.core import window
from penstock.core.element import Operator
from penstock.deadletters import DeadLetterStore, validate_store_url
from penstock.deadletters.target import AutoRedrive, DeadLetterTarget, Keep
from penstock.errors import FlowDefinitionError
from penstock.flow.dead_letter_options import check_copies, check_keep, check_redrive
from penstock.flow.item_type import FIELD, field_hint, fields_of, item_type_error
from penstock.flow.merge import merge_into, services_and_merge
from penstock.flow.serving import ServingOptions, Worker
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime.order import Order, Ordered, OrderWord, check_key, order_of
from penstock.runtime.run import Run
from penstock.runtime.schedule import Once, Schedule, validate_schedule
from penstock.runtime.stream import Results
from penstock.runtime.summary import Summary
from penstock.runtime.wiring import RunPlan
from penstock.services import MAX_IN_FLIGHT, TIMEOUT, AdaptiveLimit, Service
from penstock.services.service import is_service
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
from penstock.steps.step import as_service, check_function, keep_results
from penstock.steps.through import MAX_PARTS as THROUGH_PARTS
from penstock.steps.to import MAX_OUTAGE_WAIT
from penstock.steps.to import TIMEOUT as WRITE_TIMEOUT
from penstock.support.text import suggest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

In = TypeVar("In", contravariant=True, default=Any)
"""The type of the items. `Flow("name")` is a flow of any items."""
Out = TypeVar("Out", covariant=True, default=In)
"""The type of the values after the last step. `Flow[Order]` is a flow without steps, or one that keeps the type."""
A = TypeVar("A", default=Any)
B = TypeVar("B", default=A)
T = TypeVar("T")
X = TypeVar("X")
F = TypeVar("F")
FunctionIn = TypeVar("FunctionIn", contravariant=True)
FunctionOut = TypeVar("FunctionOut", covariant=True)
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
StructT = TypeVar("StructT", bound=Struct)
DataclassT = TypeVar("DataclassT", bound="DataclassInstance")

Call: TypeAlias = Service[A, B] | Callable[[A], Awaitable[B]]
"""What a step calls for one value."""


class _Function(Protocol[FunctionIn, FunctionOut]):
    """A function that a step calls. (mypy infers the response of a Callable too late for a lambda as `merge`.)"""

    def __call__(self, value: FunctionIn, /) -> Awaitable[FunctionOut]: ...


Function: TypeAlias = Service[A, B] | _Function[A, B]
Services: TypeAlias = Mapping[str, Call[A, Any]] | None
"""Services by the names of their responses."""
Input: TypeAlias = Source[A] | Source[builtins.bytes] | Source[Mapping[str, Any]]
"""Where items come from: as they are, or as JSON."""

__all__ = ["Flow", "Otherwise", "ServingOptions", "When", "Worker"]


@dataclass(frozen=True)  # with slots too, `When[int]` raises TypeError on Python 3.11 when it is called
class When(Generic[A, B]):
    """A branch of `route` for the values for which a condition is true.

    `steps` adds the steps of the branch to an empty flow. Values at the end of the branch continue after `route`; with
    `final` they are results.
    """

    condition: Callable[[A], object]
    steps: Callable[[Flow[A, A]], Flow[A, B]] | None = None
    final: bool = False

    if TYPE_CHECKING:  # a default of B is not enough for mypy

        @overload
        def __init__(
            self: When[A, A],  # pyright: ignore[reportInvalidTypeVarUse] - with another variable it finds no type
            condition: Callable[[A], object],
            steps: None = None,
            final: bool = False,
        ) -> None: ...

        @overload
        def __init__(
            self, condition: Callable[[A], object], steps: Callable[[Flow[A, A]], Flow[A, B]], final: bool = False
        ) -> None: ...

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...


@dataclass(frozen=True)
class Otherwise(Generic[A, B]):
    """A branch of `route` for the values that no other branch takes."""

    steps: Callable[[Flow[A, A]], Flow[A, B]] | None = None
    final: bool = False

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: Otherwise[A, A],  # pyright: ignore[reportInvalidTypeVarUse]
            steps: None = None,
            final: bool = False,
        ) -> None: ...

        @overload
        def __init__(self, steps: Callable[[Flow[A, A]], Flow[A, B]], final: bool = False) -> None: ...

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...


@final
@dataclass(frozen=True)  # with slots too, `Flow[int]("name")` raises TypeError on Python 3.11
class Flow(Generic[In, Out]):
    """A description of what happens to items, from decoding to dead letters.

    >>> flow = Flow("doubles").map(lambda number: number * 2, name="double").filter(lambda number: number > 2)

    `item` is the type of the input (see `decode`), `key` the field that identifies an item in results and dead
    letters. `elements` and `bytes` are the window: how many items, and how many bytes of input, one run may hold.

    Each method returns the flow with one more step or option. A value whose function raises, or whose call fails after
    its last attempt, fails at that step; the others continue. A step is named after its function unless `name` is
    given; a name that is taken gets a number. Options out of range raise `ValueError`, steps that make no sense
    `FlowDefinitionError`, both when the method is called. When a step backpressures and completes is documented in
    `penstock.steps`.
    """

    name: str
    item: type[Any] | None = None
    key: str | None = None
    elements: int = window.ELEMENTS
    bytes: int = window.BYTES
    steps: tuple[Step, ...] = field(default=(), kw_only=True)
    store: str | DeadLetterStore | None = field(default=None, kw_only=True)
    redacted: tuple[str, ...] = field(default=(), kw_only=True)
    """Paths of fields that are removed from dead letters: `card.number`."""
    copies: tuple[str, ...] = field(default=(), kw_only=True)
    """URLs of stores that get every dead letter too, later."""
    keep: Keep | None = field(default=None, kw_only=True)
    """How long dead letters are kept; None: for ever."""
    auto_redrive: AutoRedrive | None = field(default=None, kw_only=True)
    """When dead letters are redriven automatically; None: never."""
    ordering: Order = field(default=Order.COMPLETION, kw_only=True)
    """The order of results. A run may override it."""
    max_seconds: float | None = field(default=None, kw_only=True)
    """The deadline: how many seconds an item may take, from the moment its source emits it; None: any time."""
    sample_factory: Callable[[int], Any] | None = field(default=None, kw_only=True)
    """Returns the sample item with a number, from 1."""
    workers: tuple[Worker, ...] = field(default=(), kw_only=True)
    serving: ServingOptions = field(default_factory=lambda: ServingOptions(), kw_only=True)
    description: str = field(default="", kw_only=True)
    _outer_names: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False, compare=False)
    """Names of steps outside of the branch that this flow is."""

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: Flow[T, T],
            name: str,
            item: type[T],
            key: str | None = None,
            elements: int = ...,
            bytes: int = ...,
            *,
            description: str = "",
        ) -> None: ...

        @overload
        def __init__(
            self,
            name: str,
            item: None = None,
            key: str | None = None,
            elements: int = ...,
            bytes: int = ...,
            *,
            description: str = "",
        ) -> None: ...

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

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

    def map(self, function: Callable[[Out], T], *, name: str | None = None) -> Flow[In, T]:
        """Replace each value by the result of a plain, quick function. A function that waits belongs in `map_async`."""
        return self.step(Map(function, name=name or ""))

    def filter(self, predicate: Callable[[Out], object], *, name: str | None = None) -> Flow[In, Out]:
        """Keep the values for which a predicate is true; settle the others as filtered."""
        return self.step(Filter(predicate, name=name or ""))

    def fail(
        self,
        when: Callable[[Out], object] | None = None,
        *,
        reason: str | Callable[[Out], object],
        type: str = DEFAULT_TYPE,
        name: str | None = None,
    ) -> Flow[In, Out]:
        """Fail the values for which a condition is true, or all values without one; they become dead letters.

        `reason` becomes the message: a text in which `{field}` stands for a field of the value, or a function that
        computes it. `type` is the type of the failure.
        """
        return self.step(Fail(when, reason=reason, type=type, name=name or ""))

    def tap(self, function: Callable[[Out], object], *, name: str | None = None) -> Flow[In, Out]:
        """Call a plain, quick function with each value; the value continues unchanged."""
        return self.step(Tap(function, name=name or ""))

    def flat_map(
        self, items: Callable[[Out], Iterable[T]], *, max_parts: int = MAX_PARTS, name: str | None = None
    ) -> Flow[In, T]:
        """Replace each value by the values of an iterable, its parts. An element is settled when all its parts are.

        At most `max_parts` of one run are in flight, so the iterable may be endless.
        """
        return self.step(FlatMap(items, max_parts=max_parts, name=name or ""))

    def map_async(
        self,
        service: Service[Out, T] | Callable[[Out], Awaitable[T]],
        *,
        max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
        timeout: float = TIMEOUT,
        attempts: int = 1,
        ordered: bool = False,
        name: str | None = None,
    ) -> Flow[In, T]:
        """Replace each value by the response of a coroutine function or a `Service`.

        A function becomes a service with `max_in_flight` calls in flight, and `timeout` seconds for each of `attempts`.
        A `Service` has its own limits. With `ordered`, elements continue in input order.
        """
        called = as_service(
            service, name, default="map_async", max_in_flight=max_in_flight, timeout=timeout, attempts=attempts
        )
        return self.step(MapAsync(called, ordered=ordered, name=name or ""))

    @overload
    def enrich(
        self,
        services: Services[Out] = None,
        /,
        *,
        into: type[T],
        merge: None = None,
        name: str = ...,
        **more: Call[Out, Any],
    ) -> Flow[In, T]: ...

    @overload
    def enrich(
        self,
        services: Services[Out] = None,
        /,
        *,
        into: None = None,
        merge: Callable[[Out, dict[str, Any]], T],
        name: str = ...,
        **more: Call[Out, Any],
    ) -> Flow[In, T]: ...

    @overload
    def enrich(
        self: Flow[In, StructT],
        services: Services[StructT] = None,
        /,
        *,
        into: None = None,
        merge: None = None,
        name: str = ...,
        **more: Call[StructT, Any],
    ) -> Flow[In, StructT]: ...

    @overload
    def enrich(
        self: Flow[In, DataclassT],
        services: Services[DataclassT] = None,
        /,
        *,
        into: None = None,
        merge: None = None,
        name: str = ...,
        **more: Call[DataclassT, Any],
    ) -> Flow[In, DataclassT]: ...

    @overload
    def enrich(
        self: Flow[In, Mapping[str, Any]],
        services: Services[Out] = None,
        /,
        *,
        into: None = None,
        merge: None = None,
        name: str = ...,
        **more: Call[Out, Any],
    ) -> Flow[In, dict[str, Any]]: ...

    @overload
    def enrich(self, a: Function[Out, R1], /, *, merge: Callable[[Out, R1], T], name: str = ...) -> Flow[In, T]: ...

    @overload
    def enrich(
        self, a: Function[Out, R1], b: Function[Out, R2], /, *, merge: Callable[[Out, R1, R2], T], name: str = ...
    ) -> Flow[In, T]: ...

    @overload
    def enrich(
        self,
        a: Function[Out, R1],
        b: Function[Out, R2],
        c: Function[Out, R3],
        /,
        *,
        merge: Callable[[Out, R1, R2, R3], T],
        name: str = ...,
    ) -> Flow[In, T]: ...

    @overload
    def enrich(
        self,
        a: Function[Out, R1],
        b: Function[Out, R2],
        c: Function[Out, R3],
        d: Function[Out, R4],
        /,
        *,
        merge: Callable[[Out, R1, R2, R3, R4], T],
        name: str = ...,
    ) -> Flow[In, T]: ...

    @overload
    def enrich(
        self,
        a: Function[Out, R1],
        b: Function[Out, R2],
        c: Function[Out, R3],
        d: Function[Out, R4],
        e: Function[Out, R5],
        /,
        *,
        merge: Callable[[Out, R1, R2, R3, R4, R5], T],
        name: str = ...,
    ) -> Flow[In, T]: ...

    def enrich(
        self,
        services: Any = None,
        /,
        *others: Any,
        into: type[Any] | None = None,
        merge: Callable[..., Any] | None = None,
        name: str = "enrich",
        **more: Any,
    ) -> Flow[In, Any]:
        """Call several services concurrently and merge their responses into the value by name.

        A dict gets a key for each response, a Struct or dataclass its field of that name. `into` is the type that the
        fields of the value and the responses are converted to, and `merge(value, responses)` returns the merged value.
        Pass a mapping of services for responses called `name`, `merge` or `into`. A function becomes a service with 256
        calls in flight and one attempt of 30 s. A value fails at the service that failed.

        With services and no names, `merge` gets each response as an argument: then type checkers know its type.

        >>> flow.enrich(pricing=price_of, inventory=stock_of)
        >>> flow.enrich(price_of, stock_of, merge=lambda order, price, stock: Offer(order.id, price, stock))
        """
        if any(map(is_service, (name, merge, into))):
            raise FlowDefinitionError("enrich: name, merge and into are options; write enrich({'name': service})")
        if merge is not None:
            check_function("enrich: merge", merge)
        named, combine = services_and_merge((services, *others), more, merge)
        if into is not None:
            combine = merge_into(into, named, combine)
        fields = None if typing.is_typeddict(self.item) or self.steps or combine else fields_of(self.item)
        for key in named:
            if fields is not None and key not in fields:
                raise FlowDefinitionError(
                    f"enrich: {getattr(self.item, '__name__', self.item)} has no field {key!r} for the response; "
                    f"add the field, or pass merge={field_hint(key, fields)}"
                )
        called = {key: as_service(service, key, default=key) for key, service in named.items()}
        return self.step(Enrich(called, merge=combine, name=name))

    if TYPE_CHECKING:

        @overload
        def batch(
            self,
            service: Service[list[Out], Sequence[T | Exception]]
            | Callable[[list[Out]], Awaitable[Sequence[T | Exception]]],
            *,
            size: int,
            max_wait: float,
            max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
            timeout: float = TIMEOUT,
            attempts: int = 1,
            name: str | None = None,
        ) -> Flow[In, T]: ...

        @overload
        def batch(
            self,
            service: Callable[[list[Out]], Sequence[T | Exception]],
            *,
            size: int,
            max_wait: float,
            max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
            timeout: float = TIMEOUT,
            attempts: int = 1,
            name: str | None = None,
        ) -> Flow[In, T]: ...

    def batch(
        self,
        service: Service[list[Any], Any] | Callable[[list[Any]], Any],
        *,
        size: int,
        max_wait: float,
        max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
        timeout: float = TIMEOUT,
        attempts: int = 1,
        name: str | None = None,
    ) -> Flow[In, Any]:
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

    def throttle(self, rate: float, *, burst: int = 1, name: str = "throttle") -> Flow[In, Out]:
        """Limit the rate, in elements per second, with up to `burst` at once after a pause."""
        return self.step(Throttle(rate, burst=burst, name=name))

    def through(
        self,
        operator: Callable[[Observable[Out]], Observable[T]],
        *,
        max_parts: int = THROUGH_PARTS,
        name: str = "through",
    ) -> Flow[In, T]:
        """Send the values through a synchronous operator of reactivex, such as `distinct_until_changed()`.

        One value that the operator emits replaces its input, none filters it, several (at most `max_parts`) become its
        parts. A value that the operator emits when it completes becomes a new element. An operator that emits on
        subscription, such as `start_with`, is rejected: put those values into the source.
        """
        return self.step(Through(operator, max_parts=max_parts, name=name))

    @overload
    def route(
        self,
        branches: Mapping[str, When[Out, T]] | None = None,
        /,
        *,
        otherwise: Otherwise[Out, X],
        name: str = "route",
        **more: When[Out, T],
    ) -> Flow[In, T | X]: ...

    @overload
    def route(
        self,
        branches: Mapping[str, When[Out, T] | Otherwise[Out, T]] | None = None,
        /,
        *,
        name: str = "route",
        **more: When[Out, T] | Otherwise[Out, T],
    ) -> Flow[In, Out | T]: ...

    def route(self, branches: Mapping[str, Any] | None = None, /, *, name: str = "route", **more: Any) -> Flow[In, Any]:
        """Send each value along the first branch whose condition is true; values that no branch takes continue.

        A branch called `otherwise` tells type checkers that no value is left over.

        >>> flow = Flow("parcels").route(
        ...     heavy=When(lambda parcel: parcel["kg"] > 30, lambda heavy: heavy.map(by_truck), final=True),
        ...     otherwise=Otherwise(lambda light: light.map(by_bike)),
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
            cases.append(Branch(key, getattr(branch, "condition", None), steps, branch.final))
        return self.step(Route(tuple(cases), name=name))

    def to(
        self,
        *sinks: Sink[Out],
        timeout: float = WRITE_TIMEOUT,
        max_outage_wait: float = MAX_OUTAGE_WAIT,
        name: str = "to",
    ) -> Flow[In, Out]:
        """Write each value to sinks; it continues, unchanged, when all of them have accepted it.

        `timeout` is in seconds, for opening a sink and for one write. A value that a sink rejects fails. While the
        server of a sink cannot be reached, values wait, for up to `max_outage_wait` seconds. If a sink cannot be opened
        for another reason, the values of that write fail; the others wait for the next attempt.
        """
        return self.step(To(sinks, timeout=timeout, max_outage_wait=max_outage_wait, name=name))

    def operator(self, operator: Operator[Out, T], *, max_parts: int = 0, name: str | None = None) -> Flow[In, T]:
        """Add an operator of your own, on streams of elements.

        `max_parts` is how many parts it may have in flight; it counts into the memory bound.
        """
        return self.step(CustomOperator(operator, max_parts=max_parts, name=name or ""))

    def step(self, step: Step) -> Flow[In, Any]:
        """Add a step as a record, such as one of your own. A name that is taken gets a number."""
        if self.store is not None and not self._outer_names:
            raise FlowDefinitionError(f"step {step.name}: no step may follow dead_letters; put it before")
        steps = (*self.steps, replace(step, name=self._unique_name(step.name)))
        if any(inner.sinks for inner in walk(steps[-1:])):
            _sinks_of(self.name, steps)
        return replace(self, steps=steps)

    def apply(self, steps: Callable[[Flow[In, Out]], F]) -> F:
        """Add steps that several flows share: a function from flow to flow."""
        return steps(self)

    def window(self, elements: int, bytes: int | None = None) -> Flow[In, Out]:
        """Set the window: how many elements, and how many bytes of input, one run may hold."""
        return replace(self, elements=elements, bytes=self.bytes if bytes is None else bytes)

    def deadline(self, seconds: float) -> Flow[In, Out]:
        """Fail each item that is not finished so many seconds after its source has emitted it.

        Attempts of calls are shortened to the time that remains, and none starts after the deadline: the item fails as
        `DeadlineExceeded` at the service for which it waits. A function of a service can ask `remaining_seconds()`.
        """
        if not 0 < seconds < inf:
            raise ValueError(f"deadline: expected a number of seconds > 0, got {seconds!r}")
        return replace(self, max_seconds=float(seconds))

    def dead_letters(
        self,
        store: str | DeadLetterStore,
        *,
        copy: Iterable[str] = (),
        redact: Iterable[str] = (),
        keep: Keep | Mapping[str, float] | None = None,
    ) -> Flow[In, Out]:
        """Keep failed elements in a store, given as an object or its URL. No step may follow.

        `copy` are URLs of further stores that get every letter too, later and at least once. `redact` are paths of
        fields that are removed from dead letters: `card.number`. `keep` limits how long a service keeps letters:
        seconds by state (`resolved`, `parked`, `waiting`), and `max` letters of the flow. By default it deletes none.

        >>> flow.dead_letters("sqlite:///orders.db", keep={"resolved": 7 * 86400, "max": 1_000_000})
        """
        if isinstance(store, str):
            validate_store_url(store)
        elif not hasattr(store, "add"):
            raise FlowDefinitionError(f"dead_letters: expected a store such as 'sqlite:///FILE', got {store!r}")
        for option, value in (("redact", redact), ("copy", copy)):
            if isinstance(value, str):
                what = "paths" if option == "redact" else "URLs"
                raise FlowDefinitionError(f"{option}: expected a list of {what}: {option}=[{value!r}]")
        paths, copies = tuple(redact), tuple(copy)
        if wrong := [path for path in paths if not isinstance(cast(object, path), str) or not fullmatch(FIELD, path)]:
            raise FlowDefinitionError(
                f"redact: expected names of fields with dots between them, such as card.number, got {wrong[0]!r}"
            )
        check_copies(store, copies)
        kept = keep if keep is None or isinstance(keep, Keep) else Keep.of(keep)
        if kept is not None:
            check_keep(store)
        if self.auto_redrive is not None:
            check_redrive(store)
        return replace(self, store=store, redacted=paths, copies=copies, keep=kept)

    def redrive(self, *, when: Literal["recovered"] = "recovered", rate: float | None = None) -> Flow[In, Out]:
        """Let a service redrive dead letters automatically, at most `rate` per second.

        `recovered`: when a service that elements failed at works again, those letters are redriven.
        """
        if when != "recovered":
            raise FlowDefinitionError(f"redrive: when: expected 'recovered', got {when!r}")
        if rate is not None and not 0 < rate < inf:
            raise ValueError(f"redrive: rate: expected a number per second > 0, got {rate!r}")
        if self.store is not None:
            check_redrive(self.store)
        return replace(self, auto_redrive=AutoRedrive(when=when, rate=rate))

    def order(self, by: OrderWord = Order.INPUT) -> Flow[In, Out]:
        """Set the order of results.

        `completion`: each as soon as it is ready, which is the default. `input`: in input order. `key`: elements with
        the same key are processed one after the other, in input order; others overtake them.
        """
        order = order_of(by)
        check_key(self.name, order, self.key)
        return replace(self, ordering=order)

    def samples(self, make: Callable[[int], In]) -> Flow[In, Out]:
        """Set the function that returns the sample item with a number, from 1."""
        return replace(self, sample_factory=make)

    def worker(self, name: str, source: Source[Any], schedule: Schedule | None = None) -> Flow[In, Out]:
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
        refuse_when_open: bool = False,
    ) -> Flow[In, Out]:
        """Set how the flow is served over HTTP; see `ServingOptions`."""
        serving = ServingOptions(name, http, max_runs, max_line, max_body, max_count, refuse_when_open)
        return replace(self, serving=serving)

    def services(self, others: Mapping[str, Service]) -> Flow[In, Out]:
        """Replace the services with these names. Raises `FlowDefinitionError` for a name that the flow does not have.

        >>> flow = orders.services({"pricing": Service("pricing", lambda order: {"price": 1})})
        """
        _check_known(self.name, "service", others, [service.name for service in self.all_services])
        return replace(self, steps=tuple(step.with_services(others) for step in self.steps))

    def sinks(self, others: Mapping[str, Sink]) -> Flow[In, Out]:
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
    def dead_letter_target(self) -> DeadLetterTarget | None:
        """The URLs of the dead-letter stores, and how long letters are kept; None for a store that is an object."""
        return DeadLetterTarget(self.store, self.copies, self.keep) if isinstance(self.store, str) else None

    @property
    def all_services(self) -> tuple[Service, ...]:
        """The services that the steps call, each once."""
        called = (service for step in walk(self.steps) for service in step.services.values())
        return tuple({id(service): service for service in called}.values())

    @property
    def all_sinks(self) -> dict[str, Sink]:
        """The sinks that the steps write to, by name. Raises `FlowDefinitionError` for two with one name."""
        return _sinks_of(self.name, self.steps)

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
        described = self.steps if self.store is None else keep_results(self.steps)
        steps = (decode(self.item, key=self.key), *(step.operator() for step in described))
        return RunPlan(
            self.name,
            steps,
            self.elements,
            self.bytes,
            self.memory_bound.elements,
            self.dead_letter_target if self.copies else self.store,
            self.redacted,
            self.ordering,
            self.max_seconds,
            self.key,
        )

    def start(self, source: Input[In], consumer: ResultConsumer | None = None, *, ordered: Ordered = None) -> Run:
        """Start a run and return it, to drain or to abort it: `await run.finished` gives its summary.

        `consumer` takes the results, such as `LineWriter`; without one they are discarded. `ordered` is
        the order of results (see `order`); True stands for `input`.
        """
        return Run(self.plan(), source, DiscardResults() if consumer is None else consumer, ordered=ordered)

    async def run(
        self, source: Input[In], consumer: ResultConsumer | None = None, *, ordered: Ordered = None
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

    def stream(self, source: Input[In], *, ordered: Ordered = None) -> Results[Out]:
        """Run the flow and take its results one by one, each as soon as it is ready; see `Results`.

        `ordered` is the order of results (see `order`); True stands for `input`.

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


def _sinks_of(flow: str, steps: Iterable[Step]) -> dict[str, Sink]:
    """Return the sinks of steps by name. Raise `FlowDefinitionError` for two sinks with one name that are not equal."""
    sinks: dict[str, Sink] = {}
    for step in walk(steps):
        for name, sink in step.sinks.items():
            other = sinks.setdefault(name, sink)
            if other is not sink and other != sink:
                raise FlowDefinitionError(f"two sinks of flow {flow} are named {name!r}; give them different names")
    return sinks


def _steps_of(empty: Flow[Any], branch: Flow[Any], where: str) -> tuple[Step, ...]:
    """Return the steps of a branch. Raise for options of a flow, which would be ignored in a branch."""
    if not isinstance(cast(object, branch), Flow):
        raise FlowDefinitionError(f"{where}: expected a function that returns the flow with its steps, got {branch!r}")
    options = {
        "dead_letters": branch.store is not None and branch.store is not empty.store,
        "redrive": branch.auto_redrive is not None and branch.auto_redrive is not empty.auto_redrive,
        "order": branch.ordering is not empty.ordering,
        "window": branch.name == empty.name and (branch.elements, branch.bytes) != (empty.elements, empty.bytes),
        "deadline": branch.max_seconds is not None and branch.max_seconds != empty.max_seconds,
        "samples": branch.sample_factory is not None and branch.sample_factory is not empty.sample_factory,
        "worker": bool(branch.workers) and branch.workers != empty.workers,
        "serve": branch.serving not in (ServingOptions(), empty.serving),
    }
    for option, is_set in options.items():
        if is_set:
            raise FlowDefinitionError(f"{where}: a branch has steps only; set {option} on the flow itself")
    return branch.steps
