"""From a flow file that was read to the flow: the same builder is called that a program would call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from penstock.core.window import BYTES, ELEMENTS
from penstock.errors import FlowDefinitionError
from penstock.expressions import Assign
from penstock.flow.flow import Flow, Otherwise, When
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node
from penstock.flowfile.forms.choices import Chosen
from penstock.flowfile.forms.record import Read
from penstock.flowfile.limits import MAX_NESTING, MAX_STEPS
from penstock.flowfile.services import called, outlet_of, source_of
from penstock.runtime.schedule import Cron, Every, Once, Schedule
from penstock.services import Service
from penstock.sinks import Sink
from penstock.steps.fail import DEFAULT_TYPE
from penstock.steps.through import MAX_PARTS as THROUGH_PARTS

Fragment = Callable[[Flow[Any]], Flow[Any]]


class AlreadyReported(Exception):
    """What is wrong is among the mistakes already."""


class FlowBuilder:
    """One flow on its way from its file. What is wrong becomes a mistake at its place, and the rest goes on."""

    def __init__(
        self, services: Mapping[str, Service], templates: Mapping[str, tuple[Chosen, ...]], mistakes: Diagnostics
    ) -> None:
        self._services = services
        self._templates = templates
        self._mistakes = mistakes
        self._applying: list[str] = []
        self._count = 0
        self._depth = 0
        self.complete = True
        """Whether all steps are in the flow, and none was left out for a mistake."""

    def flow(self, read: Read, item: Any, key: str | None) -> Flow[Any]:
        """The flow of a file."""
        window = read["window"]
        elements, size = (window["elements"], window["bytes"]) if isinstance(window, Read) else (window, None)
        flow = Flow[Any](
            read["flow"], item, key, elements or ELEMENTS, size or BYTES, description=read["description"] or ""
        )
        flow = self._steps(flow, read["steps"] or ())
        if read["order"] == "input":
            flow = flow.order()
        if (samples := called(read["samples"])) is not None:
            flow = flow.samples(samples)
        for name, worker in read.mapping("workers").items():
            flow = self._try(worker.node, flow, partial(self._worker, name, worker))
        flow = self._try(read.at("serve"), flow, partial(served, read["serve"]))
        return self._try(read.at("dead_letters"), flow, partial(with_letters, read["dead_letters"]))

    def _try(self, node: Node, flow: Flow[Any], change: Fragment) -> Flow[Any]:
        """The changed flow; the flow itself and a mistake if it does not go."""
        try:
            return change(flow)
        except AlreadyReported:
            return flow
        except (FlowDefinitionError, ValueError, TypeError) as error:
            self._mistakes.add(node, str(error))
            return flow

    def _steps(self, flow: Flow[Any], steps: tuple[Chosen, ...]) -> Flow[Any]:
        if steps and self._depth == MAX_NESTING:
            found = f"steps are nested more than {MAX_NESTING} deep here, in branches and templates"
            self._mistakes.add(steps[0].key, found, hint="put fewer of them into one another")
            raise AlreadyReported
        self._depth += 1
        for step in steps:
            self._count += 1
            if self._count > MAX_STEPS:  # templates that apply others again and again would never come to an end
                self.complete = False
                if self._count == MAX_STEPS + 1:
                    found = f"the flow has more than {MAX_STEPS} steps, those of each template that is applied included"
                    self._mistakes.add(step.key, found, hint="split the flow into several")
                break
            changed = self._try(step.key, flow, partial(self._step, step))
            self.complete &= changed is not flow
            flow = changed
        self._depth -= 1
        return flow

    def _step(self, step: Chosen, flow: Flow[Any]) -> Flow[Any]:
        kind, value, name = step.kind, step.value, step.beside["name"]
        named: dict[str, Any] = {} if name is None else {"name": name}
        for word, owner in (("merge", "enrich"), ("timeout", "to")):
            if word in step.beside and kind != owner:
                where = step.beside.at(word)
                self._mistakes.add(where, f"{word} stands beside {kind}", wanted=f"it beside {owner} only")
        match kind:
            case "map":
                return flow.map(called(value), **named)
            case "set":
                return flow.map(Assign(value), name=name or "set")
            case "filter":
                return flow.filter(value, **named)
            case "fail":
                reason = value["reason"]["expression"] if isinstance(value["reason"], Read) else value["reason"]
                return flow.fail(value["when"], reason=reason, type=value["type"] or DEFAULT_TYPE, **named)
            case "tap":
                return flow.tap(value, **named)
            case "flat_map" if isinstance(value, Read):
                parts = {} if value["max_parts"] is None else {"max_parts": value["max_parts"]}
                return flow.flat_map(value["items"], **parts, **named)
            case "flat_map":
                return flow.flat_map(value, **named)
            case "map_async":
                service = self._service(value["service"] if isinstance(value, Read) else value)
                ordered = isinstance(value, Read) and bool(value["ordered"])
                return flow.map_async(service, ordered=ordered, **named)
            case "enrich":
                return self._enrich(flow, step, named)
            case "batch":
                return flow.batch(
                    self._service(value["service"]), size=value["size"], max_wait=value["max_wait"], **named
                )
            case "throttle":
                rate, burst = (value["rate"], value["burst"]) if isinstance(value, Read) else (value, None)
                return flow.throttle(rate, burst=burst or 1, **named)
            case "through" if isinstance(value, Read):
                return flow.through(value["operator"], max_parts=value["max_parts"] or THROUGH_PARTS, **named)
            case "through":
                return flow.through(value, **named)
            case "step" if isinstance(value, Read):
                return flow.operator(value["operator"], max_parts=value["max_parts"] or 0, **named)
            case "step":
                return flow.operator(value, **named)
            case "to":
                return flow.to(*outlets_of(value), timeout=step.beside["timeout"] or 30.0, **named)
            case "apply":
                return self._apply(flow, step)
            case _:
                return flow.route({key: self._branch(branch) for key, branch in value.items()}, **named)

    def _enrich(self, flow: Flow[Any], step: Chosen, named: dict[str, Any]) -> Flow[Any]:
        value: dict[str, str] | tuple[str, ...] = step.value
        asked = value if isinstance(value, dict) else {name: name for name in value}
        services: dict[str, Any] = {field: self._service(name) for field, name in asked.items()}
        return flow.enrich(services, merge=step.beside["merge"], **named)

    def _service(self, name: str) -> Service:
        """The service of a name; raises `AlreadyReported` for a name that none has, or one that is described
        wrongly.
        """
        if name not in self._services:
            raise AlreadyReported
        return self._services[name]

    def _branch(self, branch: Read) -> When | Otherwise:
        def steps(fork: Flow[Any]) -> Flow[Any]:
            return self._steps(fork, branch["steps"] or ())

        end = bool(branch["final"])
        return Otherwise(steps, end) if branch["when"] is None else When(branch["when"], steps, end)

    def _apply(self, flow: Flow[Any], step: Chosen) -> Flow[Any]:
        name: str = step.value
        if name in self._applying or name not in self._templates:
            raise AlreadyReported
        self._applying.append(name)
        try:
            return self._steps(flow, self._templates[name])
        finally:
            self._applying.pop()

    def _worker(self, name: str, worker: Read, flow: Flow[Any]) -> Flow[Any]:
        return flow.worker(name, source_of(worker["source"], flow), schedule_of(worker))


def outlets_of(value: Any) -> list[Sink]:
    """The outlets that a step `to` names: one, or a list."""
    return [outlet_of(outlet) for outlet in (cast(Any, value) if isinstance(value, tuple) else (value,))]


def served(value: Any, flow: Flow[Any]) -> Flow[Any]:
    """The flow, served as its file says."""
    if value is None:
        return flow
    if not isinstance(value, Read):
        return flow.serve(http=value)
    return flow.serve(**{name: value[name] for name in value})


def with_letters(value: Any, flow: Flow[Any]) -> Flow[Any]:
    """The flow with its store of dead letters."""
    if value is None:
        return flow
    if isinstance(value, Read):
        return flow.dead_letters(value["store"], redact=value["redact"] or ())
    return flow.dead_letters(value)


def check_schedules(workers: Node | None, mistakes: Diagnostics) -> None:
    """Note what does not go together, in the document itself, so that no other mistake of a worker hides it."""
    for worker in () if workers is None else workers.values():
        every, cron, zone = (worker.key(name) for name in ("every", "cron", "timezone"))
        if every is not None and cron is not None:
            mistakes.add(cron, "a worker runs every so often, or as cron says: give one of them")
        if zone is not None and cron is None:
            mistakes.add(zone, "timezone is for cron: 30 4 * * *")


def schedule_of(worker: Read) -> Schedule:
    """When a worker runs."""
    if worker["cron"] is not None:
        return Cron(worker["cron"], worker["timezone"] or "UTC")
    return Once() if worker["every"] is None else Every(worker["every"])
