"""Steps of flow files: for each step its form, how it is built, and how it is dumped.

To add a step: write its record in a module of `penstock.steps` and export it there; add a method to `Flow`; add an
entry to `SYNTAX`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from penstock import steps as records
from penstock.errors import FlowDefinitionError
from penstock.expressions import Assign
from penstock.flow.flow import Flow, Otherwise, When
from penstock.flowfile.document import Node
from penstock.flowfile.field_types import Duration, Expr, Function, Rate, Reference, checked, function_or_fields
from penstock.flowfile.forms.choices import Chosen, Either, OneKey, one_or_more
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form, Lazy
from penstock.flowfile.forms.record import Located, Record, optional, required
from penstock.flowfile.forms.scalars import Boolean, Integer, Text
from penstock.flowfile.plain import Plain, drop_none, dump_function, reference_of
from penstock.flowfile.quantities import show_duration, show_rate
from penstock.flowfile.services import SERVICE_NAME
from penstock.flowfile.sinks import SINK, dump_sink
from penstock.services import Service
from penstock.sinks import Sink
from penstock.steps import Step
from penstock.steps.fail import DEFAULT_TYPE, TYPE_PATTERN, Template
from penstock.steps.flat_map import MAX_PARTS
from penstock.steps.through import MAX_PARTS as THROUGH_PARTS
from penstock.steps.to import MAX_OUTAGE_WAIT
from penstock.steps.to import TIMEOUT as WRITE_TIMEOUT

NAME = Text(pattern="[A-Za-z0-9_][A-Za-z0-9_-]*", noun="name", allowed="letters, digits, - and _")
"""A name that is a part of paths and metrics."""

T = TypeVar("T")
S = TypeVar("S", bound=Step)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions(Located):
    """The keys beside that of a step."""

    name: str | None = optional(Text(), "The name of the step in failures, metrics and dead letters")
    merge: Any = optional(Reference(), "For enrich: how responses are put into the value")
    timeout: float | None = optional(Duration(), "For to: the time for one write (30s)")
    max_outage_wait: float | None = optional(
        Duration(), "For to: how long a value waits for a sink whose server cannot be reached, before it fails (5m)"
    )


ReadStep = Chosen[StepOptions]
"""A step as it was read."""

STEP: Form[ReadStep] = Lazy("step", lambda: _STEP)
STEPS = ListOf(STEP)


class Builder(Protocol):
    """What building a step needs from the flow file around it."""

    def service(self, name: str) -> Service: ...

    def steps(self, flow: Flow[Any], steps: tuple[ReadStep, ...]) -> Flow[Any]: ...

    def template(self, flow: Flow[Any], name: str) -> Flow[Any]: ...


class Dumper(Protocol):
    """What dumping a step needs from the dump around it."""

    def service_name(self, service: Service) -> str: ...

    def step(self, step: Step) -> Plain: ...


@dataclass(frozen=True, slots=True)
class Dumped:
    """A step as plain data: its value, and further keys beside it."""

    value: Plain
    beside: Mapping[str, Plain] | None = None


@dataclass(frozen=True)  # with slots too, `StepSyntax[Any](...)` raises TypeError on Python 3.11
class StepSyntax(Generic[T, S]):
    """The syntax of one step: its form, how a flow gets it, and how it becomes plain data."""

    form: Form[T]
    build: Callable[[Flow[Any], T, StepOptions, dict[str, Any], Builder], Flow[Any]]
    """Receives the flow, the value, the keys beside it, `name` as a keyword argument if there is one, and a builder."""
    record: type[S] | None = None
    """The record of the step; None for a key that only adds other steps."""
    dump: Callable[[S, Dumper], Dumped] | None = None
    services: Callable[[Node], Iterable[Node]] = lambda _: ()
    """Returns the nodes inside the value that name services. The value may be invalid."""


# map, set, filter, tap


MAP = StepSyntax[Any, records.Map](
    function_or_fields(description="Replace the value: by an expression, or an object of expressions"),
    lambda flow, function, _, named, __: flow.map(function, **named),
    records.Map,
    lambda step, _: Dumped(dump_function(step.function)),
)
SET = StepSyntax[Assign, records.Map](
    MapOf(Expr(), description="Set fields of the value; it keeps its others").then(Assign),
    lambda flow, fields, _, named, __: flow.map(fields, **{"name": "set", **named}),
    records.Map,
    lambda step, _: Dumped(dump_function(step.function)),
)
FILTER = StepSyntax[Any, records.Filter](
    Function(gives=("BOOL",), description="Keep the values for which this is true"),
    lambda flow, predicate, _, named, __: flow.filter(predicate, **named),
    records.Filter,
    lambda step, _: Dumped(dump_function(step.predicate)),
)
TAP = StepSyntax[Any, records.Tap](
    Reference(description="Call a function with each value, which continues unchanged"),
    lambda flow, function, _, named, __: flow.tap(function, **named),
    records.Tap,
    lambda step, _: Dumped(dump_function(step.function)),
)

# fail


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonExpression(Located):
    expression: Any = required(Function(), "The message, computed from the value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailOptions(Located):
    when: Any = optional(Function(gives=("BOOL",)), "Which values fail; all if left out")
    reason: Any = required(
        Either(checked(Template), Record(ReasonExpression).then(lambda reason: reason.expression)),
        "The message: a text in which {field} is replaced by a field of the value, or an expression",
    )
    type: str | None = optional(
        Text(pattern=TYPE_PATTERN, noun="name", allowed="at most 64 letters, digits and _"),
        "The type of the failure (Rejected)",
    )


def _dump_fail(step: records.Fail, _: Dumper) -> Dumped:
    value = {
        "when": None if step.when is None else dump_function(step.when),
        "reason": step.reason if isinstance(step.reason, str) else {"expression": dump_function(step.reason)},
        "type": None if step.type == DEFAULT_TYPE else step.type,
    }
    return Dumped(drop_none(value))


FAIL = StepSyntax[FailOptions, records.Fail](
    Record(FailOptions, description="Fail the values for which a condition is true, with a reason"),
    lambda flow, fail, _, named, __: flow.fail(fail.when, reason=fail.reason, type=fail.type or DEFAULT_TYPE, **named),
    records.Fail,
    _dump_fail,
)

# flat_map


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatMapOptions(Located):
    items: Any = required(Function(gives=("LIST",)), "The list of values that replace the value")
    max_parts: int | None = optional(Integer(min=1), "How many parts may be in flight at once (256)")


def _dump_flat_map(step: records.FlatMap, _: Dumper) -> Dumped:
    items = dump_function(step.items)
    return Dumped(items if step.max_parts == MAX_PARTS else {"items": items, "max_parts": step.max_parts})


FLAT_MAP = StepSyntax[FlatMapOptions, records.FlatMap](
    Record(FlatMapOptions, "items", description="Replace the value by the values of a list, its parts"),
    lambda flow, options, _, named, __: flow.flat_map(options.items, max_parts=options.max_parts or MAX_PARTS, **named),
    records.FlatMap,
    _dump_flat_map,
)

# map_async, enrich, batch


def _named_services(value: Node) -> Iterable[Node]:
    """Return the node of the service: the value itself, or its key `service`."""
    service = value.get("service") if value.kind == "mapping" else value
    return () if service is None else (service,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapAsyncOptions(Located):
    service: str = required(SERVICE_NAME, "The service to call")
    ordered: bool | None = optional(Boolean(), "Whether elements continue in input order")


def _dump_map_async(step: records.MapAsync, dumper: Dumper) -> Dumped:
    service = dumper.service_name(step.service)
    return Dumped({"service": service, "ordered": True} if step.ordered else service)


MAP_ASYNC = StepSyntax[MapAsyncOptions, records.MapAsync](
    Record(MapAsyncOptions, "service", description="Replace the value by the response of a service"),
    lambda flow, options, _, named, builder: flow.map_async(
        builder.service(options.service), ordered=bool(options.ordered), **named
    ),
    records.MapAsync,
    _dump_map_async,
    _named_services,
)


def _build_enrich(
    flow: Flow[Any], names: dict[str, str], options: StepOptions, named: dict[str, Any], builder: Builder
) -> Flow[Any]:
    services = {field: builder.service(name) for field, name in names.items()}
    return flow.enrich(services, merge=options.merge, **named)


def _dump_enrich(step: records.Enrich, dumper: Dumper) -> Dumped:
    names = {field: dumper.service_name(service) for field, service in step.fields.items()}
    same = all(field == name for field, name in names.items())
    return Dumped(list(names) if same else names, {"merge": None if step.merge is None else reference_of(step.merge)})


_ONE_EACH: Form[dict[str, str]] = ListOf(SERVICE_NAME, min=1).then(lambda names: {name: name for name in names})

ENRICH = StepSyntax[dict[str, str], records.Enrich](
    Either(
        _ONE_EACH,
        MapOf(SERVICE_NAME),
        description="Call services concurrently; each response becomes a field, named like the service or as given",
        hint="put the names of services in brackets, such as [stock]",
    ),
    _build_enrich,
    records.Enrich,
    _dump_enrich,
    lambda value: value.value if value.kind == "list" else value.values(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(Located):
    service: str = required(SERVICE_NAME, "A service that is called for many values at once")
    size: int = required(Integer(min=1), "How many values one call has")
    max_wait: float = required(Duration(), "How long the first value waits for others")


def _dump_batch(step: records.Batch, dumper: Dumper) -> Dumped:
    service, max_wait = dumper.service_name(step.service), show_duration(step.max_wait)
    return Dumped({"service": service, "size": step.size, "max_wait": max_wait})


BATCH = StepSyntax[BatchOptions, records.Batch](
    Record(BatchOptions, description="Collect values and call a service once for all of them"),
    lambda flow, batch, _, named, builder: flow.batch(
        builder.service(batch.service), size=batch.size, max_wait=batch.max_wait, **named
    ),
    records.Batch,
    _dump_batch,
    _named_services,
)

# throttle, through, operator


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleOptions(Located):
    rate: float = required(Rate(), "How many values may pass per second: 10/s, 600/m")
    burst: int | None = optional(Integer(min=1), "How many values may pass at once after a pause (1)")


def _dump_throttle(step: records.Throttle, _: Dumper) -> Dumped:
    rate = show_rate(step.rate)
    return Dumped(rate if step.burst == 1 else {"rate": rate, "burst": step.burst})


THROTTLE = StepSyntax[ThrottleOptions, records.Throttle](
    Record(ThrottleOptions, "rate", description="Limit the rate of values"),
    lambda flow, throttle, _, named, __: flow.throttle(throttle.rate, burst=throttle.burst or 1, **named),
    records.Throttle,
    _dump_throttle,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughOptions(Located):
    operator: Any = required(Reference(), "The operator, module:name")
    max_parts: int | None = optional(Integer(min=1), "How many values it may make of one value (16)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOptions(Located):
    operator: Any = required(Reference(), "The operator, module:name")
    max_parts: int | None = optional(Integer(min=0), "How many parts one run may have in flight; 0: it makes none (0)")


def _dump_operator(step: records.Through | records.CustomOperator, default: int) -> Dumped:
    operator = reference_of(step.function)
    return Dumped(operator if step.max_parts == default else {"operator": operator, "max_parts": step.max_parts})


THROUGH = StepSyntax[ThroughOptions, records.Through](
    Record(ThroughOptions, "operator", description="Send the values through a synchronous operator of reactivex"),
    lambda flow, options, _, named, __: flow.through(
        options.operator, max_parts=options.max_parts or THROUGH_PARTS, **named
    ),
    records.Through,
    lambda step, _: _dump_operator(step, THROUGH_PARTS),
)
OPERATOR = StepSyntax[OperatorOptions, records.CustomOperator](
    Record(OperatorOptions, "operator", description="An operator of your own, on streams of elements"),
    lambda flow, options, _, named, __: flow.operator(options.operator, max_parts=options.max_parts or 0, **named),
    records.CustomOperator,
    lambda step, _: _dump_operator(step, 0),
)

# route


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchOptions(Located):
    when: Any = optional(Function(gives=("BOOL",)), "Which values take this branch; all remaining ones if left out")
    steps: tuple[ReadStep, ...] | None = optional(STEPS, "The steps on this branch")
    final: bool | None = optional(
        Boolean(), "true: values that reach the end of the branch skip the steps after route (false)"
    )


def _build_route(
    flow: Flow[Any], branches: dict[str, BranchOptions], _: StepOptions, named: dict[str, Any], builder: Builder
) -> Flow[Any]:
    def branch_of(branch: BranchOptions) -> When | Otherwise:
        def steps(flow: Flow[Any]) -> Flow[Any]:
            return builder.steps(flow, branch.steps or ())

        final = bool(branch.final)
        return Otherwise(steps, final) if branch.when is None else When(branch.when, steps, final)

    return flow.route({name: branch_of(branch) for name, branch in branches.items()}, **named)


def _dump_route(step: records.Route, dumper: Dumper) -> Dumped:
    return Dumped(
        {
            branch.name: drop_none(
                {
                    "when": None if branch.when is None else dump_function(branch.when),
                    "steps": [dumper.step(inner) for inner in branch.steps] or None,
                    "final": branch.final or None,
                }
            )
            for branch in step.cases
        }
    )


ROUTE = StepSyntax[dict[str, BranchOptions], records.Route](
    MapOf(Record(BranchOptions), keys=NAME, description="Send each value along the first branch with a true condition"),
    _build_route,
    records.Route,
    _dump_route,
)

# to


def _build_to(
    flow: Flow[Any], sinks: tuple[Callable[[], Sink], ...], options: StepOptions, named: dict[str, Any], _: Builder
) -> Flow[Any]:
    return flow.to(
        *(make() for make in sinks),
        timeout=options.timeout or WRITE_TIMEOUT,
        max_outage_wait=options.max_outage_wait or MAX_OUTAGE_WAIT,
        **named,
    )


def _dump_to(step: records.To, _: Dumper) -> Dumped:
    sinks = [dump_sink(sink) for sink in step.targets]
    options = {
        "timeout": None if step.timeout == WRITE_TIMEOUT else show_duration(step.timeout),
        "max_outage_wait": None if step.max_outage_wait == MAX_OUTAGE_WAIT else show_duration(step.max_outage_wait),
    }
    return Dumped(sinks[0] if len(sinks) == 1 else sinks, options)


TO = StepSyntax[tuple[Callable[[], Sink], ...], records.To](
    one_or_more(SINK, description="Write each value to sinks"), _build_to, records.To, _dump_to
)

# apply

APPLY = StepSyntax[str, Step](
    Text(description="The steps of a template"),
    lambda flow, name, _, __, builder: builder.template(flow, name),
)

SYNTAX: Mapping[str, StepSyntax[Any, Any]] = {
    "map": MAP,
    "set": SET,
    "filter": FILTER,
    "fail": FAIL,
    "tap": TAP,
    "flat_map": FLAT_MAP,
    "map_async": MAP_ASYNC,
    "enrich": ENRICH,
    "batch": BATCH,
    "throttle": THROTTLE,
    "through": THROUGH,
    "route": ROUTE,
    "to": TO,
    "operator": OPERATOR,
    "apply": APPLY,
}
"""The steps by their keys."""

_STEP: Form[ReadStep] = OneKey(
    {kind: syntax.form for kind, syntax in SYNTAX.items()},
    beside=StepOptions,
    noun="step",
    separate="are two steps: write them as two list items",
)

_ONLY_WITH = {"merge": "enrich", "timeout": "to", "max_outage_wait": "to"}
"""Keys beside a step that only one kind of step has."""


def misplaced_keys(step: ReadStep) -> list[tuple[str, str]]:
    """Return the keys beside a step that it cannot have, each with the step that can."""
    return [(key, kind) for key, kind in _ONLY_WITH.items() if step.beside.has(key) and step.kind != kind]


def build_step(flow: Flow[Any], step: ReadStep, builder: Builder) -> Flow[Any]:
    """Return the flow with the step added. Raises `FlowDefinitionError`, `ValueError` or `TypeError`."""
    name = step.beside.name
    return SYNTAX[step.kind].build(flow, step.value, step.beside, {} if name is None else {"name": name}, builder)


def dump_step(step: Step, dumper: Dumper) -> Plain:
    """Return a step as plain data. Raises `FlowDefinitionError` for one that flow files do not have."""
    is_set = isinstance(step, records.Map) and isinstance(step.function, Assign)
    kind = "set" if is_set else next((kind for kind, one in SYNTAX.items() if one.record is type(step)), None)
    dump = None if kind is None else SYNTAX[kind].dump
    if dump is None:
        raise FlowDefinitionError(f"step {step.name}: flow files have no step {step.kind!r}")
    dumped = dump(step, dumper)
    name = None if step.name == ("set" if is_set else step.default_name) else step.name
    return {kind: dumped.value, **drop_none({"name": name, **(dumped.beside or {})})}
