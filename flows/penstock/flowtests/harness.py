"""Sets the stage for a test: the flow as it is, with all that is outside of it played."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.flowfile.models import Window
from penstock.flowtests.fakes import FailingStore, Fake, FakeClient, FakeService, FakeSink
from penstock.flowtests.models import FlowTest
from penstock.flowtests.tracing import ElementRecorder, Trace
from penstock.results import LineWriter
from penstock.runtime.run import Run
from penstock.services.http_service import HttpRequestSpec
from penstock.sources import Source, from_async_iterable, from_iterable
from penstock.steps import Batch, walk


class FlowTestHarness:
    """All that takes part in one test. Raises `FlowDefinitionError` for a flow that cannot be played."""

    def __init__(self, flow: Flow[Any], case: FlowTest, seed: int) -> None:
        self.trace = Trace(flow.key)
        self.register = ElementRecorder(self.trace)
        self.client = FakeClient(case.client_delay or 0.0, self.register, self.trace)
        self.store = FailingStore(case.outages, self.trace)
        self.services = _services(flow, case, self.trace)
        self.outlets = {
            name: FakeSink(name, outlet.name, (case.rules or {}).get(name, ()), self.trace)
            for name, outlet in flow.all_sinks.items()
        }
        self._flow = flow
        self._case = case
        self._seed = seed

    @property
    def actors(self) -> dict[str, Fake]:
        """What plays services and outlets, by their names."""
        return {**self.outlets, **self.services}

    def start(self) -> Run:
        """Start the run: the plan of the flow, with two steps more that only look."""
        case, flow = self._case, self._staged()
        plan = flow.plan()
        first, *others = plan.steps
        run = Run(
            msgspec.structs.replace(plan, steps=(first, self.register.step(), *others, self.register.step())),
            source_of(flow, case),
            LineWriter(self.client.write),
            kind="test",
            ordered=flow.ordered if case.order is None else case.order == "input",
            rng=self._chance("dead letters"),
        )
        run.ledger.on_settled = self.register.settled
        return run

    def _staged(self) -> Flow[Any]:
        """The flow, with all that is played in the place of what is real."""
        case, flow = self._case, self._flow
        window = case.window or Window()
        played = {
            service.name: service.with_function(self.services[service.name], rng=self._chance(service.name))
            for service in flow.all_services
        }
        return replace(
            flow.services(played).sinks(self.outlets),
            elements=window.elements or flow.elements,
            bytes=window.bytes or flow.bytes,
            store=self.store,
        )

    def _chance(self, what: str) -> random.Random:
        """What one part draws from, so that it does not depend on what the others draw."""
        return random.Random(f"{self._seed} {what}")  # noqa: S311 - jitter, the same each time


def source_of(flow: Flow[Any], case: FlowTest) -> Source[bytes]:
    """What comes in, as the bytes that a client would send."""

    def lines() -> Iterator[bytes]:
        if isinstance(case.given, int):
            assert flow.sample_factory is not None
            for number in range(1, case.given + 1):
                yield msgspec.json.encode(flow.sample_factory(number))
        else:
            for value in case.given:
                yield value.encode() if isinstance(value, str) else msgspec.json.encode(value)

    async def paced() -> AsyncIterator[bytes]:
        for number, line in enumerate(lines()):
            if number:
                await asyncio.sleep(case.every or 0.0)
            yield line

    return from_async_iterable(paced(), size=len) if case.every else from_iterable(lines(), size=len)


def _services(flow: Flow[Any], case: FlowTest, trace: Trace) -> dict[str, FakeService]:
    """What plays the services of a flow, by their names."""
    many = {service.name for step in walk(flow.steps) if isinstance(step, Batch) for service in step.services.values()}
    known: dict[str, Any] = {}
    for service in flow.all_services:
        if known.setdefault(service.name, service) != service:
            raise FlowDefinitionError(
                f"two different services of flow {flow.name} are called {service.name}; name them apart"
            )
    return {
        name: FakeService(
            name,
            (case.rules or {}).get(name, ()),
            trace,
            None if isinstance(service.function, HttpRequestSpec) else service.function,
            many=name in many,
        )
        for name, service in known.items()
    }
