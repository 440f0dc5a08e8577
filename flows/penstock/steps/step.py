"""Describe a step of a flow: the base of all steps, branches, and the memory bound of a flow.

A step is a frozen record with its options, in one module with its operator. Records are compared by value, so a flow
can be written to a file, read again, and compared.

To add a step: write its record in a module of `penstock.steps` and export it there; add a method to `Flow`; add an
entry to `SYNTAX` in `penstock.flowfile.steps`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from reactivex import Observable

from penstock.core.element import Element, Operator
from penstock.core.operators import callable_name
from penstock.errors import FlowDefinitionError
from penstock.expressions import Assign, Expression, Fields
from penstock.services import MAX_IN_FLIGHT, TIMEOUT, AdaptiveLimit, Service
from penstock.services.http_service import HttpRequestSpec
from penstock.services.service import functions_of, is_service
from penstock.sinks import Sink

Stream = Observable[list[Element[Any]]]


@dataclass(frozen=True)
class Step(ABC):
    """One step of a flow.

    A subclass is a frozen dataclass. It checks its options in `__post_init__`, which calls `super().__post_init__()`,
    and raises `ValueError` for those out of range, `FlowDefinitionError` for those that make no sense.
    """

    name: str = field(default="", kw_only=True)
    """The name in failures, metrics and dead letters. Default: `default_name`. A flow makes names unique."""

    kind: ClassVar[str]
    """The name of the step in flow files."""
    is_timed: ClassVar[bool] = True
    """Whether the operator measures how long elements are in it."""
    is_filter: ClassVar[bool] = False
    """Whether the purpose of the step is to filter elements."""
    can_fail: ClassVar[bool] = True
    """Whether an element can fail in this step."""
    is_resumable: ClassVar[bool] = True
    """Whether another process can continue a run: False for a step that remembers earlier elements."""

    def __post_init__(self) -> None:
        if not self.name:
            set_option(self, "name", self.default_name)

    @abstractmethod
    def operator(self) -> Operator[Any, Any]:
        """Make the operator. A flow makes it once, for all its runs."""

    def __call__(self, source: Stream) -> Stream:
        """Apply the operator, so that a step can stand in a `pipe` of operators."""
        return self.operator()(source)

    @property
    def default_name(self) -> str:
        """The name of a step to which none is given."""
        return self.kind

    @property
    def services(self) -> Mapping[str, Service]:
        """The services that this step calls, by the name of their response; usually the name of the service."""
        return {}

    @property
    def sinks(self) -> Mapping[str, Sink]:
        """The sinks that this step writes to, by name."""
        return {}

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches, whose steps are part of the flow."""
        return ()

    @property
    def failure_points(self) -> tuple[str, ...]:
        """The names that failures in this step can have."""
        return (self.name,)

    @property
    def makes_parts(self) -> bool:
        """Whether this step can replace an element by several parts."""
        return False

    def with_services(self, others: Mapping[str, Service]) -> Step:  # noqa: ARG002 - for steps that call some
        """Return the step with other services in place of those with these names."""
        return self

    def with_sinks(self, others: Mapping[str, Sink]) -> Step:  # noqa: ARG002 - for steps that write to some
        """Return the step with other sinks in place of those with these names."""
        return self

    def keeping_results(self, *, can_fail: bool) -> Step:  # noqa: ARG002 - for steps that have results
        """Return the step so that it keeps its results for dead letters, if an element can fail in a later step."""
        return self

    def memory_bound(self, held: int) -> MemoryUse | None:  # noqa: ARG002 - for steps that add something
        """Return what this step adds to the memory of one run in which up to `held` elements reach it."""
        return None

    def summary(self) -> tuple[str, ...]:
        """Describe the options in a few words each, for a graph; not the name, the services and the sinks."""
        return ()


@dataclass(frozen=True)
class Branch:
    """One branch of `route`: which values take it, and its steps.

    Without `when` it takes all values that no branch before it took. Values at its end continue after `route`; with
    `final` they are results.
    """

    name: str
    when: Callable[[Any], object] | None = None
    steps: tuple[Step, ...] = ()
    final: bool = False

    def summary(self) -> tuple[str, ...]:
        """Describe which values take the branch."""
        return ("otherwise",) if self.when is None else describe_function(self.when, self.name)


def walk(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield all steps, each followed by those on its branches."""
    for step in steps:
        yield step
        for branch in step.branches:
            yield from walk(branch.steps)


def keep_results(steps: Sequence[Step], *, can_fail: bool = False) -> tuple[Step, ...]:
    """Return steps that keep their results where an element can fail in a later step.

    `can_fail`: whether it can fail after the last of these steps. After a step that makes parts, nothing is kept: the
    dead letter of a part is that of the whole element.
    """
    dividing = (number for number, step in enumerate(steps) if any(each.makes_parts for each in walk((step,))))
    whole = next(dividing, len(steps))
    keeping: list[Step] = []
    for number, step in reversed(list(enumerate(steps))):
        keeping.append(step if number > whole else step.keeping_results(can_fail=can_fail))
        can_fail = can_fail or step.can_fail
    return tuple(reversed(keeping))


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What one step adds to the memory of a run: elements that are parts of others, and bytes."""

    step: str
    elements: int
    bytes: int
    why: str
    open: tuple[str, ...] = ()
    """Functions whose results have no limit in bytes."""


@dataclass(frozen=True, slots=True)
class MemoryBound:
    """The maximum of elements and bytes that one run can hold.

    Elements are counted exactly: a run that holds more is reported as a bug. Bytes are those of values as JSON: of the
    input, and of responses of services. Python needs about five times as much. Results of functions are not included;
    `open` names those functions.
    """

    parts: tuple[MemoryUse, ...]

    @classmethod
    def of(cls, steps: Iterable[Step], *, elements: int, bytes: int) -> MemoryBound:
        """Return the bound of a flow with these steps and this window, in any order of results."""
        parts = [MemoryUse("source", elements, bytes, f"the window: {elements} elements, and their input")]
        held = elements
        for step in walk(steps):
            added = step.memory_bound(held)
            if added is not None:
                parts.append(added)
                held += added.elements
        return cls(tuple(parts))

    @property
    def elements(self) -> int:
        """Elements in all."""
        return sum(part.elements for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes in all."""
        return sum(part.bytes for part in self.parts)

    @property
    def open(self) -> tuple[str, ...]:
        """The functions whose results have no limit, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.open))


def response_memory(step: Step, held: int) -> MemoryUse:
    """Return the memory of the responses to `held` calls of each service of a step. Only HTTP has a limit."""
    size, names = 0, list[str]()
    for service in step.services.values():
        if isinstance(service.function, HttpRequestSpec):
            size += held * service.function.limit
        else:
            names.append(service.name)
    why = f"a response for each of {held}" if size else "results of functions"
    return MemoryUse(step.name, 0, size, why, tuple(names))


def as_service(
    service: Callable[[Any], Any] | Service,
    name: str | None,
    *,
    default: str,
    batch: bool = False,
    max_in_flight: int | AdaptiveLimit = MAX_IN_FLIGHT,
    timeout: float = TIMEOUT,
    attempts: int = 1,
) -> Service:
    """Return the service that a step calls. A function becomes one, called `name` or like the function.

    `batch`: whether the service takes a list of values. Raises `FlowDefinitionError` for one that does not fit.
    """
    if not is_service(service):
        if not callable(service):
            raise FlowDefinitionError(f"{name or default}: expected a function or a Service, got {service!r}")
        name = name or callable_name(service, default)
        service = Service(name, service, max_in_flight=max_in_flight, timeout=timeout, attempts=attempts)
    if getattr(service.function, "is_batch", batch) is not batch:
        expected = "one value: use map_async or enrich" if batch else "a list of values: use batch"
        raise FlowDefinitionError(f"service {service.name} takes {expected}")
    return service


def set_option(step: Step, option: str, value: object) -> None:
    """Set an option of a frozen record in its `__post_init__`."""
    object.__setattr__(step, option, value)


def check_function(subject: str, function: object) -> None:
    """Raise for what is not callable, and for a coroutine function: nothing would await its result."""
    if not callable(function):
        raise FlowDefinitionError(f"{subject}: expected a function, got {function!r}")
    if any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in functions_of(function)):
        raise FlowDefinitionError(
            f"{subject}: expected a plain function, and {callable_name(function, 'this')} is a coroutine function; "
            "use map_async"
        )


def check_count(option: str, number: float, *, min: int = 1) -> None:
    """Raise `ValueError` for an option that is not an integer, or below the minimum."""
    if number < min or number % 1:
        raise ValueError(f"{option}: expected an integer >= {min}, got {number!r}")


def check_seconds(option: str, seconds: float) -> None:
    """Raise `ValueError` for a duration that is not above 0."""
    if not seconds > 0:
        raise ValueError(f"{option}: expected a number of seconds > 0, got {seconds!r}")


def describe_function(function: object, name: str = "") -> tuple[str, ...]:
    """Return the text of an expression, or the name of a Python function if it differs from `name`."""
    match function:
        case Expression():
            return (function.text,)
        case Fields() | Assign():
            return tuple(f"{key} = {expression.text}" for key, expression in function.fields.items())
        case _:
            function_name = getattr(function, "__name__", "<lambda>")
            return () if function_name in ("<lambda>", name) else (str(function_name),)
