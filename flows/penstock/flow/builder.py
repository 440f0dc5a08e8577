"""The steps of a flow, said one after the other: each method gives a flow with one step more."""

from __future__ import annotations

import inspect
import typing
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from reactivex import Observable

from penstock import steps as operators
from penstock.core.element import Operator
from penstock.core.operators import as_service, callable_name
from penstock.errors import FlowDefinitionError
from penstock.flow.item_type import field_hint, fields_of
from penstock.services import MAX_IN_FLIGHT, Service
from penstock.services.service import functions_of
from penstock.sinks import Sink
from penstock.steps.step import NamedStep, Way, walk
from penstock.steps.through import MAX_PARTS as THROUGH_PARTS

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    from penstock.flow.flow import Flow

    A = TypeVarWithDefault("A", default=Any)  # `Flow("name")` is a flow of anything
else:
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


class Builder(Generic[A]):
    """What a flow is, as far as its steps go.

    Each method gives the flow with one step more. A value whose function raises, or whose call fails for good, fails at
    that step; the others go on. Steps are named after their functions unless `name` says otherwise; one that is taken
    gets a number behind it. Options out of bounds raise `ValueError`, what cannot be meant raises
    `FlowDefinitionError`, both at
    once. What a step holds back, and when it ends, its operator in `penstock.steps` tells; there, `route` is
    `branch`.
    """

    name: str
    item: type[A] | None
    steps: tuple[NamedStep, ...]

    @property
    @abstractmethod
    def _used_names(self) -> frozenset[str]:
        """The names that further steps cannot have."""

    @abstractmethod
    def _unique_name(self, name: str) -> str:
        """The name, with a number behind it if a step has it."""

    @abstractmethod
    def _branch(self, taken: frozenset[str]) -> Flow[Any]:
        """An empty flow for the steps of a branch, which must not have names that are taken."""

    @abstractmethod
    def _add(self, kind: str, name: str, **options: Any) -> Flow[Any]:
        """The flow with one step more. A name that is taken gets a number behind it."""

    def map(self, function: Callable[[A], B], *, name: str | None = None) -> Flow[B]:
        """Replace each value by what a plain, quick function makes of it. What waits belongs in `map_async`."""
        _check_plain("map", function)
        return self._add("map", name or callable_name(function, "map"), function=function)

    def filter(self, predicate: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Let through the values for which a predicate is true; the others are settled as filtered."""
        _check_plain("filter", predicate)
        return self._add("filter", name or callable_name(predicate, "filter"), predicate=predicate)

    def fail(
        self,
        when: Callable[[A], object] | None = None,
        *,
        reason: str | Callable[[A], object],
        type: str = operators.DEFAULT_TYPE,
        name: str | None = None,
    ) -> Flow[A]:
        """Fail the values for which a condition is true, or all values without one; they become dead letters.

        `reason` becomes the message: a text in which `{field}` stands for a field of the value, or a function that
        computes it. `type` is the type of the failure.
        """
        if when is not None:
            _check_plain("the condition of fail", when)
        if not isinstance(reason, str):
            _check_plain("the reason of fail", reason)
        default = "fail" if when is None else callable_name(when, "fail")
        return self._add("fail", name or default, when=when, reason=reason, type=type)

    def tap(self, look: Callable[[A], object], *, name: str | None = None) -> Flow[A]:
        """Call a plain, quick function with each value; the value goes on unchanged."""
        _check_plain("tap", look)
        return self._add("tap", name or callable_name(look, "tap"), look=look)

    def flat_map(
        self,
        function: Callable[[A], Iterable[B]],
        *,
        max_parts: int = operators.MAX_PARTS,
        name: str | None = None,
    ) -> Flow[B]:
        """Replace each value by the values of an iterable, its parts; it is settled when all of them are.

        At most `max_parts` of one run are open at once (default 256), so an endless iterable is no danger.
        """
        _check_plain("flat_map", function)
        name = name or callable_name(function, "flat_map")
        return self._add("flat_map", name, function=function, max_parts=max_parts)

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
        """Replace each value by the answer of a coroutine function or a `Service`.

        Of a function a service is made: `max_in_flight` calls at once (default 256), `timeout` in seconds for each of
        `attempts` (default 30 s, once). A `Service` brings its own. `ordered` keeps the order of what comes in.
        """
        service = _service(name, "map_async", call, max_in_flight, timeout, attempts)
        return self._add("map_async", name or service.name, call=service, ordered=ordered)

    def enrich(
        self,
        services: Mapping[str, Service | Callable[[Any], Any]] | None = None,
        /,
        *,
        name: str = "enrich",
        merge: operators.Merge | None = None,
        **more: Service | Callable[[Any], Any],
    ) -> Flow[Any]:
        """Ask several services side by side and merge their answers into the value by name.

        A dict gets a key for each, a Struct or dataclass its field of that name; `merge(value, answers)` does it for
        anything else. A mapping of services may be given too, for answers that are to be called `name` or `merge`.
        Of a function a service is made, of 256 calls at once and one attempt of 30 s. A value fails at
        the service that failed for good. Raises `FlowDefinitionError` for a name that is no field of the item.
        """
        if _is_service(name) or _is_service(merge):
            raise FlowDefinitionError(
                "name and merge are words of enrich itself; for answers of that name: enrich({'name': …})"
            )
        if services is not None and not isinstance(cast(object, services), Mapping):
            raise FlowDefinitionError(
                f"enrich in flow {self.name} puts each answer under a name: enrich(pricing=price_of)"
            )
        named = {**(services or {}), **more}
        if not named:
            raise FlowDefinitionError(
                f"enrich in flow {self.name} needs at least one service: enrich(pricing=price_of)"
            )
        fields = None if typing.is_typeddict(self.item) or self.steps or merge else fields_of(self.item)
        for key in named:
            if fields is not None and key not in fields:
                raise FlowDefinitionError(
                    f"enrich in flow {self.name} has no field {key!r} to put the answer in; "
                    f"give {getattr(self.item, '__name__', self.item)} that field, or pass merge="
                    f"{field_hint(key, fields)}"
                )
        asked = {key: _service(key, key, service) for key, service in named.items()}
        return self._add("enrich", name, services=asked, merge=merge)

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
        """Gather values, ask a service once for all of them, and give each its own answer.

        The call is made when `size` values are together, or the first has waited `seconds`. It takes a list and answers
        with one of the same length and order; an exception in it fails its value alone. The other options are those of
        `map_async`.
        """
        service = _service(name, "batch", call, max_in_flight, timeout, attempts, many=True)
        return self._add("batch", name or service.name, call=service, size=size, seconds=seconds)

    def throttle(self, rate: float, *, burst: int = 1, name: str = "throttle") -> Flow[A]:
        """Let elements through at a `rate`, in elements per second, with up to `burst` at once after a pause."""
        return self._add("throttle", name, rate=rate, burst=burst)

    def through(
        self,
        operator: Callable[[Observable[A]], Observable[B]],
        *,
        max_parts: int = THROUGH_PARTS,
        name: str = "through",
    ) -> Flow[B]:
        """Send the values through a synchronous operator of reactivex, such as `distinct_until_changed()`.

        One value that comes out replaces the one that went in, none filters it, several are its parts, `max_parts` at
        most (default 16). What comes out at the operator's end is an element of its own. An operator that brings values
        as soon as it is subscribed to, as `start_with` does, is no step but a source: put them there.
        """
        _check_plain("through", operator)
        return self._add("through", name, operator=operator, max_parts=max_parts)

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
            raise FlowDefinitionError(
                f"route in flow {self.name} needs at least one branch: route(big=When(is_big, steps))"
            )
        if any(isinstance(branch, Otherwise) for branch in list(branches.values())[:-1]):
            raise FlowDefinitionError(
                f"route in flow {self.name} has a branch behind Otherwise, which leaves nothing for it"
            )
        name = self._unique_name(name)
        taken = {*self._used_names, name}
        made: list[Way] = []
        for key, branch in branches.items():
            _check_branch(f"branch {key} of {name} in flow {self.name}", branch)
            fork = self._branch(frozenset(taken))
            steps = () if branch.steps is None else self._steps_of(fork, branch.steps(fork), f"branch {key} of {name}")
            taken |= {step.name for step in walk(steps)}
            made.append(Way(key, branch.condition if isinstance(branch, When) else None, steps, branch.end))
        return self._add("route", name, ways=tuple(made))

    def _steps_of(self, fork: Flow[Any], branch: Flow[Any], where: str) -> tuple[NamedStep, ...]:
        """The steps of a branch; refuses all else that was said on it, which would be passed over."""
        if not isinstance(cast(object, branch), Builder):
            raise FlowDefinitionError(
                f"{where} in flow {self.name} has to give the flow with its steps, got {branch!r}"
            )
        said = {
            "dead_letters": branch.store is not None and branch.store is not fork.store,
            "order": branch.ordered and not fork.ordered,
            "window": branch.name == fork.name and (branch.elements, branch.bytes) != (fork.elements, fork.bytes),
            "samples": branch.sample_factory is not None and branch.sample_factory is not fork.sample_factory,
            "worker": bool(branch.workers) and branch.workers != fork.workers,
        }
        if word := next((word for word, is_said in said.items() if is_said), None):
            raise FlowDefinitionError(f"{where} in flow {self.name} has steps only; say {word} of the flow itself")
        return branch.steps

    def to(self, *outlets: Sink, timeout: float = 30.0, name: str = "to") -> Flow[A]:
        """Hand each value to outlets; it goes on, unchanged, when all of them took it.

        `timeout` is in seconds, for one write, and for opening an outlet (default 30). A value that an outlet
        refuses fails, and so do those of a write for which it could not be opened; the others wait for the next try.
        """
        if not outlets:
            raise FlowDefinitionError(f"to in flow {self.name} needs at least one outlet: to(FileOutlet('out.ndjson'))")
        for outlet in outlets:
            if not hasattr(outlet, "write"):
                raise FlowDefinitionError(
                    f"to in flow {self.name} needs outlets, such as FileOutlet('out.ndjson'), got {outlet!r}"
                )
        return self._add("to", name, outlets=outlets, timeout=timeout)

    def operator(self, step: Operator[A, B], *, max_parts: int = 0, name: str | None = None) -> Flow[B]:
        """Continue with an operator of your own, on streams of elements, that has at most `max_parts` parts open.

        `max_parts` counts into the bound of the flow's memory; a step that makes no parts leaves it at 0.
        """
        _check_plain("step", step)
        return self._add("step", name or callable_name(step, "step"), step=step, max_parts=max_parts)


def _is_service(given: object) -> bool:
    return isinstance(given, Service)


def _check_plain(kind: str, function: object) -> None:
    """Refuse what is no function, and one that would give an awaitable for each value, which nobody would await."""
    if not callable(function):
        raise FlowDefinitionError(f"{kind} needs a function, got {function!r}")
    if any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in functions_of(function)):
        raise FlowDefinitionError(
            f"{kind} needs a plain function, and {callable_name(function, 'this')} is a coroutine function; "
            "what waits belongs in map_async"
        )


def _check_branch(where: str, branch: object) -> None:
    if not isinstance(branch, (When, Otherwise)):
        raise FlowDefinitionError(f"{where} has to be When(condition, steps) or Otherwise(steps), got {branch!r}")
    if isinstance(branch, When):
        _check_plain(f"the condition of {where}", branch.condition)


def _service(
    name: str | None,
    default: str,
    call: Any,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    *,
    many: bool = False,
) -> Service:
    """The service that a step calls; one is made of a plain function. `many`: whether it is asked for many at once."""
    if not isinstance(call, Service) and not callable(call):
        raise FlowDefinitionError(f"{name or default} has to be a function or a Service, got {call!r}")
    service = as_service(call, name, step=default, max_in_flight=max_in_flight, timeout=timeout, attempts=attempts)
    if getattr(service.function, "is_batch", many) is not many:
        told = "one value; ask it with map_async or enrich" if many else "many values at once; ask it with batch"
        raise FlowDefinitionError(f"service {service.name} answers for {told}")
    return service
