"""Build the flow of a flow file: calls the same builder that a program would call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

from penstock.core.window import BYTES, ELEMENTS
from penstock.deadletters.stores import is_log_url, validate_store_url
from penstock.deadletters.target import KEPT_STATES
from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node, quoted
from penstock.flowfile.limits import MAX_NESTING, MAX_STEPS
from penstock.flowfile.models import DeadLetters, FlowModel, Redrive, Serve, Window, Worker
from penstock.flowfile.sources import endless_kind, make_source
from penstock.flowfile.steps import ReadStep, build_step, misplaced_keys
from penstock.runtime.order import Order
from penstock.runtime.schedule import Cron, Every, Once, Schedule
from penstock.services import Service

Fragment = Callable[[Flow[Any]], Flow[Any]]


class AlreadyReported(Exception):
    """A step cannot be built because of an error that was reported when its file was checked."""


class FlowBuilder:
    """Builds one flow. An invalid part becomes an error at its location, and building continues without it."""

    def __init__(
        self,
        services: Mapping[str, Service],
        templates: Mapping[str, tuple[ReadStep, ...]],
        diagnostics: Diagnostics,
    ) -> None:
        self._services = services
        self._templates = templates
        self._diagnostics = diagnostics
        self._applying: list[str] = []
        self._count = 0
        self._depth = 0
        self.complete = True
        """Whether the flow has all steps, and none was left out because of an error."""

    def flow(self, read: FlowModel, item: Any, key: str | None) -> Flow[Any]:
        """Return the flow of a file."""
        window = read.window or Window()
        elements, bytes = window.elements or ELEMENTS, window.bytes or BYTES
        flow = Flow[Any](read.flow, item, key, elements, bytes, description=read.description or "")
        if read.deadline is not None:
            flow = flow.deadline(read.deadline)
        flow = self.steps(flow, read.steps or ())
        if read.order is not None and (read.key is None or key is not None):
            flow = self._try(read.at("order"), flow, partial(_order, Order(read.order)))
        if read.samples is not None:
            flow = flow.samples(read.samples)
        for name, worker in (read.workers or {}).items():
            flow = self._try(worker.node, flow, partial(_add_worker, name, worker))
        if read.serve is not None:
            flow = self._try(read.at("serve"), flow, partial(_serve, read.serve))
        if read.dead_letters is not None:
            flow = self._dead_letters(read.dead_letters, flow)
        if read.redrive is not None:
            flow = self._try(read.at("redrive"), flow, partial(_redrive, read.redrive))
        return flow

    def steps(self, flow: Flow[Any], steps: tuple[ReadStep, ...]) -> Flow[Any]:
        """Return the flow with steps."""
        if steps and self._depth == MAX_NESTING:
            message = f"steps in branches and templates are nested more than {MAX_NESTING} deep"
            self._diagnostics.add(steps[0].key, message, hint="use fewer branches inside each other")
            raise AlreadyReported(message)
        self._depth += 1
        for step in steps:
            self._count += 1
            if self._count > MAX_STEPS:  # templates that apply each other would never end
                self.complete = False
                if self._count == MAX_STEPS + 1:
                    unit = "steps in the flow, including those of each template that is applied"
                    self._diagnostics.exceeded(step.key, unit, MAX_STEPS, hint="split the flow into several")
                break
            changed = self._try(step.key, flow, partial(self._add_step, step))
            self.complete &= changed is not flow
            flow = changed
        self._depth -= 1
        return flow

    def service(self, name: str) -> Service:
        """Return a service. Raises `AlreadyReported` for one that is unknown or invalid."""
        if name not in self._services:
            raise AlreadyReported(f"unknown service {quoted(name)}")
        return self._services[name]

    def template(self, flow: Flow[Any], name: str) -> Flow[Any]:
        """Return the flow with the steps of a template. Raises `AlreadyReported` for one that is unknown or invalid."""
        if name in self._applying or name not in self._templates:
            raise AlreadyReported(f"unknown template {quoted(name)}")
        self._applying.append(name)
        try:
            return self.steps(flow, self._templates[name])
        finally:
            self._applying.pop()

    def _try(self, node: Node, flow: Flow[Any], change: Fragment) -> Flow[Any]:
        """Return the changed flow; after an error the flow itself."""
        try:
            return change(flow)
        except AlreadyReported as error:
            if not self._diagnostics:  # such as for a step whose syntax does not say where it names services
                self._diagnostics.add(node, str(error))
            return flow
        except (FlowDefinitionError, ValueError, TypeError) as error:
            self._diagnostics.add(node, str(error))
            return flow

    def _dead_letters(self, read: DeadLetters, flow: Flow[Any]) -> Flow[Any]:
        """Return the flow with its stores, option by option, so that each error is reported at its own location."""
        options: dict[str, Any] = {"redact": read.redact or (), "copy": (), "keep": None}

        def change(flow: Flow[Any]) -> Flow[Any]:
            return flow.dead_letters(read.store, **options)

        written = zip(read.at("copy").value, read.copy or (), strict=False)
        copies = [(node, url) for node, url in written if self._is_valid_url(node, url)]
        if self._try(read.at("store"), flow, change) is flow:
            return flow
        if is_log_url(read.store):  # one error for all of them
            copies = [(read.at("copy"), url) for _, url in copies[:1]]
        for node, url in copies:
            before, options["copy"] = options["copy"], (*options["copy"], url)
            if self._try(node, flow, change) is flow:
                options["copy"] = before
        if read.keep is not None:
            limits = {name: getattr(read.keep, name) for name in (*KEPT_STATES, "max")}
            options["keep"] = {name: limit for name, limit in limits.items() if limit is not None}
            if self._try(read.at("keep"), flow, change) is flow:
                options["keep"] = None
        return change(flow)

    def _is_valid_url(self, node: Node, url: str) -> bool:
        """Return whether the URL of a store is valid; add an error if it is not."""
        try:
            validate_store_url(url)
        except FlowDefinitionError as error:
            self._diagnostics.add(node, str(error))
            return False
        return True

    def _add_step(self, step: ReadStep, flow: Flow[Any]) -> Flow[Any]:
        for key, kind in misplaced_keys(step):
            message = f"{key}: only for the step {kind}, not {step.kind}"
            self._diagnostics.add(step.beside.at(key), message, hint="remove it")
        return build_step(flow, step, self)


def check_schedules(workers: Node | None, diagnostics: Diagnostics) -> None:
    """Add errors for keys that exclude each other, in the document itself, so that other errors hide none."""
    for worker in () if workers is None else workers.values():
        every, cron, timezone = (worker.key(name) for name in ("every", "cron", "timezone"))
        if every is not None and cron is not None:
            diagnostics.add(cron, '"every" and "cron" exclude each other: remove one')
        if timezone is not None and cron is None:
            diagnostics.add(timezone, "timezone: only with cron, such as 30 4 * * *")
        source = worker.get("source")
        if source is not None and (kind := endless_kind(source)) is not None:
            for key in (every, cron):
                if key is not None:
                    message = f"{key.value}: a run with the source {kind} only ends when it is stopped"
                    diagnostics.add(key, message, hint="remove it")


def _order(order: Order, flow: Flow[Any]) -> Flow[Any]:
    return flow.order(order)


def _add_worker(name: str, worker: Worker, flow: Flow[Any]) -> Flow[Any]:
    return flow.worker(name, make_source(worker.source, flow), _schedule(worker))


def _schedule(worker: Worker) -> Schedule:
    if worker.cron is not None:
        return Cron(worker.cron, worker.timezone or "UTC")
    return Once() if worker.every is None else Every(worker.every)


def _serve(serve: Serve, flow: Flow[Any]) -> Flow[Any]:
    return flow.serve(
        serve.name,
        http=serve.http,
        max_runs=serve.max_runs,
        max_line=serve.max_line,
        max_body=serve.max_body,
        max_count=serve.max_count,
        refuse_when_open=bool(serve.refuse_when_open),
    )


def _redrive(redrive: Redrive, flow: Flow[Any]) -> Flow[Any]:
    return flow.redrive(when=cast("Literal['recovered']", redrive.when), rate=redrive.rate)
