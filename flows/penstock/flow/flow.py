"""A flow, described: its steps, its window and its dead letters. Nothing runs yet.

Each method gives a new flow, so that a description can be shared and continued. What is wrong is said when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from re import fullmatch
from typing import Any, TypeVar, cast

from reactivex import Observable

from penstock import steps as operators
from penstock.core import window
from penstock.core.element import Element
from penstock.deadletters import DeadLetterStore, validate_store_url
from penstock.errors import FlowDefinitionError
from penstock.flow.builder import A, Builder, Otherwise, When
from penstock.flow.item_type import FIELD, field_hint, fields_of, item_type_error
from penstock.flow.serving import ServingOptions, Worker
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime.run import Run
from penstock.runtime.schedule import Once, Schedule, validate_schedule
from penstock.runtime.stream import Results
from penstock.runtime.summary import Summary
from penstock.runtime.wiring import RunPlan
from penstock.services import Service
from penstock.sinks import Sink
from penstock.sources import Source
from penstock.steps.memory_bound import MemoryBound, bound_of
from penstock.steps.step import NamedStep, walk
from penstock.support.text import suggest

__all__ = ["Flow", "Otherwise", "ServingOptions", "When", "Worker"]

B = TypeVar("B")


@dataclass(frozen=True)  # with slots too, `Flow[int]("name")` raises TypeError on Python 3.11
class Flow(Builder[A]):
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
    store: str | DeadLetterStore | None = field(default=None, kw_only=True)
    redacted: tuple[str, ...] = field(default=(), kw_only=True)
    """Fields that dead letters do not keep, as paths: `card.number`."""
    ordered: bool = field(default=False, kw_only=True)
    """Whether results keep the order of the input unless a run is asked otherwise."""
    sample_factory: Callable[[int], Any] | None = field(default=None, kw_only=True)
    """Makes the sample item of a number, from 1 on."""
    workers: tuple[Worker, ...] = field(default=(), kw_only=True)
    serving: ServingOptions = field(default_factory=lambda: ServingOptions(), kw_only=True)
    about: str = field(default="", kw_only=True)
    _taken: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False, compare=False)
    """Names of steps outside of the branch that this flow is."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise FlowDefinitionError(f"a flow is named with letters, digits, - and _, got {self.name!r}")
        if isinstance(cast(object, self.item), str):
            raise FlowDefinitionError(f"the second word of a flow is the type of its items; perhaps key={self.item!r}")
        check_item(self.item)
        if not isinstance(cast(object, self.key), str | None):
            raise FlowDefinitionError(f"the key of flow {self.name} is the name of a field, got {self.key!r}")
        if self.elements < 1 or self.bytes < 1 or self.elements % 1 or self.bytes % 1:
            raise FlowDefinitionError(
                f"flow {self.name} needs a window of at least 1 element and 1 byte, in whole numbers, "
                f"got {self.elements} and {self.bytes}"
            )
        fields = fields_of(self.item)
        if self.key is not None and fields is not None and self.key not in fields:
            raise FlowDefinitionError(
                f"flow {self.name} has no field {self.key!r} for its key{field_hint(self.key, fields)}"
            )

    def window(self, elements: int, bytes: int | None = None) -> Flow[A]:
        """The same flow with another window."""
        return replace(self, elements=elements, bytes=self.bytes if bytes is None else bytes)

    def apply(self, steps: Callable[[Flow[A]], Flow[B]]) -> Flow[B]:
        """Continue with steps that are written down once and used by many flows: a function from flow to flow."""
        return steps(self)

    def dead_letters(self, store: str | DeadLetterStore, *, redact: Iterable[str] = ()) -> Flow[A]:
        """Keep what failed in a store, given by its URL or itself. This ends the description.

        `redact` names fields that letters do not keep, as paths: `card.number`. Raises `FlowDefinitionError` for a
        URL that
        names no store.
        """
        if isinstance(store, str):
            validate_store_url(store)  # a URL that names no store is to be said now
        elif not hasattr(store, "add"):
            raise FlowDefinitionError(
                f"dead letters of flow {self.name} need a store, such as 'sqlite:///FILE', got {store!r}"
            )
        if isinstance(redact, str):
            raise FlowDefinitionError(f"redact takes paths, several of them: redact=[{redact!r}]")
        paths = tuple(redact)
        if wrong := [path for path in paths if not isinstance(cast(object, path), str) or not fullmatch(FIELD, path)]:
            raise FlowDefinitionError(
                f"redact takes names of fields, with dots between them: card.number; got {wrong[0]!r}"
            )
        return replace(self, store=store, redacted=paths)

    def order(self) -> Flow[A]:
        """The same flow, whose results keep the order of the input."""
        return replace(self, ordered=True)

    def samples(self, make: Callable[[int], A]) -> Flow[A]:
        """The same flow, with a function that makes the sample item of a number, from 1 on."""
        return replace(self, sample_factory=make)

    def worker(self, name: str, source: Source[Any], schedule: Schedule | None = None) -> Flow[A]:
        """The same flow with one worker more, which the service runs in the background; once unless told otherwise."""
        validate_schedule(schedule)
        if any(worker.name == name for worker in self.workers):
            raise FlowDefinitionError(f"flow {self.name} has two workers of the name {name!r}; give each its own")
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
        """The same flow, served in another way; see `ServingOptions`."""
        return replace(self, serving=ServingOptions(name, http, max_runs, max_line, max_body, max_count))

    def with_services(self, others: Mapping[str, Service]) -> Flow[A]:
        """The same flow, calling other services in the place of those with these names.

        Raises `FlowDefinitionError`.
        """
        _check_known(self.name, "service", others, [service.name for service in self.services])
        return replace(self, steps=tuple(step.with_services(others) for step in self.steps))

    def with_outlets(self, others: Mapping[str, Sink]) -> Flow[A]:
        """The same flow, handing values to other outlets in the place of those with these names.

        Raises `FlowDefinitionError`.
        """
        _check_known(self.name, "outlet", others, self.outlets)
        return replace(self, steps=tuple(step.with_outlets(others) for step in self.steps))

    @property
    def path_name(self) -> str | None:
        """The name in its path, if it is served over HTTP."""
        return (self.serving.name or self.name) if self.serving.http else None

    @property
    def dead_letter_url(self) -> str | None:
        """The URL of the store of dead letters, also of one that was given itself; None without one."""
        return self.store if self.store is None or isinstance(self.store, str) else self.store.url

    @property
    def outlets(self) -> dict[str, Sink]:
        """All outlets that the steps hand values to, by name."""
        return {name: outlet for step in walk(self.steps) for name, outlet in step.outlets.items()}

    @property
    def services(self) -> tuple[Service, ...]:
        """All services that the steps call."""
        return tuple({id(service): service for step in walk(self.steps) for service in step.services}.values())

    @property
    def timed_steps(self) -> tuple[str, ...]:
        """The steps that measure how long elements spend in them."""
        own = (step.name for step in walk(self.steps) if step.kind not in ("flat_map", "through", "throttle", "step"))
        return ("decode", *own, "encode")

    @property
    def failure_points(self) -> tuple[str, ...]:
        """Where an element may fail: the names that failures carry."""
        named = (step.places for step in walk(self.steps))
        return ("source", "decode", *(name for names in named for name in names), "encode")

    def plan(self) -> RunPlan:
        """What a run needs to know."""
        return self._plan

    @cached_property
    def _plan(self) -> RunPlan:
        decode = operators.decode(self.item, key=self.key)
        steps = (decode, *(step.apply for step in self.steps))
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

    @cached_property
    def memory_bound(self) -> MemoryBound:
        """What one run can hold at the most."""
        return bound_of(self.steps, elements=self.elements, bytes=self.bytes)

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
        """The names of all steps, those around the branch that this flow may be included."""
        return self._taken | {step.name for step in walk(self.steps)}

    def _unique_name(self, name: str) -> str:
        """The name, with a number behind it if a step has it."""
        taken = self._used_names
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def _branch(self, taken: frozenset[str]) -> Flow[Any]:
        """An empty flow for the steps of a branch, which must not have names that are taken."""
        return replace(self, item=None, key=None, steps=(), _taken=taken)

    def _add(self, kind: str, name: str, **options: Any) -> Flow[Any]:
        """The flow with one step more. A name that is taken gets a number behind it."""
        if self.store is not None and not self._taken:
            raise FlowDefinitionError(
                f"step {name} comes after dead_letters, which ends flow {self.name}; put it before"
            )
        step = NamedStep(kind, self._unique_name(name), options)
        _ = step.apply  # options out of bounds are to be said now
        return replace(self, steps=(*self.steps, step))


def check_item(item: Any) -> None:
    """Raise `FlowDefinitionError` for a type of items that no item can be read as, such as something that is no
    type.
    """
    if item is None:
        return
    trouble = item_type_error(item) if isinstance(item, Hashable) else "it is no type"
    if trouble is not None:
        raise FlowDefinitionError(
            f"no item can be read as {item!r}: {trouble}; name a type such as a TypedDict or a Struct"
        )


def _check_known(flow: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `FlowDefinitionError` for a name that a flow does not have: a replacement must not be ignored."""
    known = list(known)
    for name in names:
        if name not in known:
            meant = suggest(name, known)
            hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(known) or 'none'}"
            raise FlowDefinitionError(f"flow {flow} has no {kind} {name!r}; {hint}")
