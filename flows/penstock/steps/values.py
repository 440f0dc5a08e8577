"""Map, filter or inspect values one by one, with plain functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutine
from typing import Any

from penstock.core.element import FILTERED, Element, Operator
from penstock.core.operators import ERRORS, callable_name, sync_operator
from penstock.expressions import as_predicate
from penstock.steps.slices import in_slices
from penstock.steps.step import Step, check_function, describe_function
from penstock.support.tasks import reject_awaitable


@dataclass(frozen=True)
class Map(Step):
    """Replace each value by the result of a plain, quick function. A function that waits belongs in `MapAsync`.

    **Accepts** elements. **Backpressures when** never. **Emits** each element with its new value; an element whose
    function raised as failed. **Completes when** its input completes.

    >>> step = Map(lambda order: order | {"total": order["quantity"] * order["price"]}, name="total")
    """

    function: Callable[[Any], Any]

    kind = "map"

    def __post_init__(self) -> None:
        check_function("map", self.function)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        name, function = self.name, self.function

        def work(elements: list[Element[Any]]) -> None:
            for element in elements:
                if element.outcome is None:
                    try:
                        value = function(element.value)
                        if iscoroutine(value):
                            reject_awaitable(value, "the function")
                        element.value = value
                    except ERRORS as error:
                        element.fail(name, error)

        return in_slices(name, sync_operator(name, work), function)

    @property
    def default_name(self) -> str:
        return callable_name(self.function, "map")

    def summary(self) -> tuple[str, ...]:
        return describe_function(self.function, self.name)


@dataclass(frozen=True)
class Filter(Step):
    """Keep the values for which a plain, quick predicate is true.

    **Accepts** elements. **Backpressures when** never. **Emits** each element: as filtered if the predicate is false,
    as failed if it raised. **Completes when** its input completes.

    >>> step = Filter(lambda order: order["quantity"] > 0, name="not empty")
    """

    predicate: Callable[[Any], object]

    kind = "filter"
    is_filter = True

    def __post_init__(self) -> None:
        check_function("filter", self.predicate)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        name, predicate = self.name, as_predicate(self.predicate)

        def work(elements: list[Element[Any]]) -> None:
            for element in elements:
                if element.outcome is None:
                    try:
                        verdict = predicate(element.value)
                        if not verdict:
                            element.outcome = FILTERED
                        elif verdict is not True:
                            reject_awaitable(verdict, "the predicate")
                    except ERRORS as error:
                        element.fail(name, error)

        return in_slices(name, sync_operator(name, work), self.predicate)

    @property
    def default_name(self) -> str:
        return callable_name(self.predicate, "filter")

    def summary(self) -> tuple[str, ...]:
        return tuple(f"only {text}" for text in describe_function(self.predicate, self.name))


@dataclass(frozen=True)
class Tap(Step):
    """Call a plain, quick function with each value, and leave the value as it is.

    **Accepts** elements. **Backpressures when** never. **Emits** the same elements; one whose function raised as
    failed. **Completes when** its input completes.

    >>> step = Tap(print)
    """

    function: Callable[[Any], object]

    kind = "tap"

    def __post_init__(self) -> None:
        check_function("tap", self.function)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        name, function = self.name, self.function

        def work(elements: list[Element[Any]]) -> None:
            for element in elements:
                if element.outcome is None:
                    try:
                        if (result := function(element.value)) is not None:
                            reject_awaitable(result, "the function")
                    except ERRORS as error:
                        element.fail(name, error)

        return in_slices(name, sync_operator(name, work), function)

    @property
    def default_name(self) -> str:
        return callable_name(self.function, "tap")

    def summary(self) -> tuple[str, ...]:
        return describe_function(self.function, self.name)
