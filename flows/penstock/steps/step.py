"""The steps of a flow as data: what kind each is, what it is called, and what it was given.

Two flows are equal when their steps say the same, so a flow can be written down, read again, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from penstock import steps as operators
from penstock.core.element import Operator
from penstock.expressions import Assign, Expression, Fields, as_predicate
from penstock.services import Service
from penstock.sinks import Sink


@dataclass(frozen=True)
class Way:
    """One branch of a step `route`: which values take it, and the steps on it.

    Without `when` it takes what no branch before it took. What reaches its end goes on behind the step, or,
    with `end`, is finished.
    """

    name: str
    when: Callable[[Any], object] | None
    steps: tuple[NamedStep, ...] = ()
    final: bool = False


@dataclass(frozen=True)
class NamedStep:
    """A step of a flow. `options` are what the operator of its kind takes."""

    kind: str
    name: str
    options: Mapping[str, Any]

    @cached_property
    def apply(self) -> Operator[Any, Any]:
        """The operator; raises `ValueError` for options that are out of bounds.

        What evaluates expressions gets its elements in slices: one of them may take long for a hostile value.
        """
        operator = self._operator
        if not self._evaluates:
            return operator
        slices = operators.sliced(self.name)
        return lambda source: operator(slices(source))

    @property
    def _evaluates(self) -> bool:
        """Whether this step evaluates expressions on many elements at once. (`flat_map` takes them one by one.)"""
        given = (*self.options.values(), *(way.when for way in self.ways))
        return self.kind != "flat_map" and any(isinstance(value, Expression | Fields | Assign) for value in given)

    @property
    def _operator(self) -> Operator[Any, Any]:
        options = self.options
        match self.kind:
            case "enrich":
                return operators.enrich(options["services"], name=self.name, merge=options["merge"])
            case "route":
                ways = [
                    operators.Branch(
                        way.name,
                        None if way.when is None else as_predicate(way.when),
                        tuple(step.apply for step in way.steps),
                        way.final,
                    )
                    for way in self.ways
                ]
                return operators.route(ways, name=self.name)
            case "to":
                return operators.to(*options["outlets"], timeout=options["timeout"], name=self.name)
            case "step":
                own: Operator[Any, Any] = options["step"]
                return own
            case "filter":
                return operators.filter(as_predicate(options["predicate"]), name=self.name)
            case "fail":
                when = options["when"]
                return operators.fail(
                    None if when is None else as_predicate(when),
                    reason=options["reason"],
                    type=options["type"],
                    name=self.name,
                )
            case kind:
                make: Callable[..., Operator[Any, Any]] = getattr(operators, kind)
                return make(**options, name=self.name)

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that this step calls itself."""
        match self.kind:
            case "enrich":
                return tuple(self.options["services"].values())
            case "map_async" | "batch":
                return (self.options["call"],)
            case _:
                return ()

    @property
    def outlets(self) -> dict[str, Sink]:
        """The outlets that this step hands values to, by name; one without takes the step's, a second a number."""
        named: dict[str, Sink] = {}
        for outlet in self.options.get("outlets", ()):
            name = outlet.name or self.name
            named[name if name not in named else f"{name}.{len(named) + 1}"] = outlet
        return named

    @property
    def ways(self) -> tuple[Way, ...]:
        """The branches, of a step that has some."""
        ways: tuple[Way, ...] = self.options.get("ways", ())
        return ways

    @property
    def places(self) -> tuple[str, ...]:
        """The names that failures in this step itself carry."""
        match self.kind:
            case "enrich":
                return (*self.options["services"], self.name)
            case "to":
                return (*(outlet.name for outlet in self.options["outlets"] if outlet.name), self.name)
            case _:
                return (self.name,)

    def with_services(self, others: Mapping[str, Service]) -> NamedStep:
        """The same step, calling other services in the place of those with these names."""
        match self.kind:
            case "enrich":
                asked = {key: others.get(service.name, service) for key, service in self.options["services"].items()}
                changed: dict[str, Any] = {"services": asked}
            case "map_async" | "batch":
                changed = {"call": others.get(self.options["call"].name, self.options["call"])}
            case "route":
                return self._on_ways(lambda step: step.with_services(others))
            case _:
                return self
        return replace(self, options={**self.options, **changed})

    def with_outlets(self, others: Mapping[str, Sink]) -> NamedStep:
        """The same step, handing values to other outlets in the place of those with these names."""
        if self.kind == "route":
            return self._on_ways(lambda step: step.with_outlets(others))
        if self.kind != "to":
            return self
        outlets = tuple(others.get(name, outlet) for name, outlet in self.outlets.items())
        return replace(self, options={**self.options, "outlets": outlets})

    def _on_ways(self, change: Callable[[NamedStep], NamedStep]) -> NamedStep:
        """The same step, with other steps on its branches."""
        ways = (replace(way, steps=tuple(change(step) for step in way.steps)) for way in self.ways)
        return replace(self, options={**self.options, "ways": tuple(ways)})


def walk(steps: Iterable[NamedStep]) -> Iterator[NamedStep]:
    """All steps, those on branches included, in the order in which they are written."""
    for step in steps:
        yield step
        for way in step.ways:
            yield from walk(way.steps)
