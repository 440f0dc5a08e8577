"""Build the test run: the real flow with fake services, sinks, store and client."""

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
from penstock.runtime.order import Order
from penstock.runtime.run import Run
from penstock.services.http_service import HttpRequestSpec
from penstock.sources import Source, from_async_iterable, from_iterable
from penstock.steps import Batch, walk


class FlowTestHarness:
    """The flow and the fakes of one test. Raises `FlowDefinitionError` for a flow that cannot be tested."""

    def __init__(self, flow: Flow[Any], case: FlowTest, seed: int) -> None:
        self.trace = Trace(flow.key)
        self.recorder = ElementRecorder(self.trace)
        self.client = FakeClient(case.client_delay or 0.0, self.recorder, self.trace)
        self.store = FailingStore(case.outages, self.trace)
        self.services = _services(flow, case, self.trace)
        self.sinks = {
            name: FakeSink(name, sink.name, (case.rules or {}).get(name, ()), self.trace)
            for name, sink in flow.all_sinks.items()
        }
        self._flow = flow
        self._case = case
        self._seed = seed

    @property
    def fakes(self) -> dict[str, Fake]:
        """Return the fake services and sinks by name."""
        return {**self.sinks, **self.services}

    def start(self) -> Run:
        """Start the run: the plan of the flow with two more steps, which record the elements."""
        case, flow = self._case, self._with_fakes()
        plan = flow.plan()
        first, *others = plan.steps
        run = Run(
            msgspec.structs.replace(plan, steps=(first, self.recorder.step(), *others, self.recorder.step())),
            source_of(flow, case),
            LineWriter(self.client.write),
            kind="test",
            ordered=None if case.order is None else Order(case.order),
            rng=self._rng("dead letters"),
        )
        run.ledger.watch(self.recorder.settled)
        return run

    def _with_fakes(self) -> Flow[Any]:
        """Return the flow with fakes instead of its services, sinks and store."""
        case, flow = self._case, self._flow
        window = case.window or Window()
        services = {
            service.name: service.with_function(self.services[service.name], rng=self._rng(service.name))
            for service in flow.all_services
        }
        return replace(
            flow.services(services).sinks(self.sinks),
            elements=window.elements or flow.elements,
            bytes=window.bytes or flow.bytes,
            store=self.store,
        )

    def _rng(self, user: str) -> random.Random:
        """Return the random numbers of one user, which are independent of those of the others."""
        return random.Random(f"{self._seed} {user}")  # noqa: S311 - jitter, reproducible


def source_of(flow: Flow[Any], case: FlowTest) -> Source[bytes]:
    """Return the source of the input, as the bytes that a client would send."""

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
    """Return the fake services of a flow by name."""
    batched = {
        service.name for step in walk(flow.steps) if isinstance(step, Batch) for service in step.services.values()
    }
    known: dict[str, Any] = {}
    for service in flow.all_services:
        if known.setdefault(service.name, service) != service:
            raise FlowDefinitionError(
                f"two different services of flow {flow.name} have the name {service.name}; give them different names"
            )
    return {
        name: FakeService(
            name,
            (case.rules or {}).get(name, ()),
            trace,
            None if isinstance(service.function, HttpRequestSpec) else service.function,
            is_batch=name in batched,
        )
        for name, service in known.items()
    }
