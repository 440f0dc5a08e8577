"""Describe how several processes of a service divide what a flow needs: its services, workers and streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.deadletters.stores import is_in_memory
from penstock.flow.flow import Flow
from penstock.services import Service


def processes_report(flow: Flow[Any], processes: int) -> list[str]:
    """Return sentences about a flow that is served by several processes; none for one process."""
    return [] if processes == 1 else list(_sentences(flow, processes))


def _sentences(flow: Flow[Any], processes: int) -> Iterator[str]:
    if is_in_memory(flow.store):
        yield "dead letters: several processes refuse a store in memory; use sqlite:///FILE or a server"
    for service in flow.all_services:
        yield f"{service.name}: {'; '.join(_service_facts(service, processes))}"
    for worker in flow.workers:
        everywhere = "runs in every process, which all receive a part of the messages"
        yield f"worker {worker.name}: {everywhere if worker.runs_everywhere else 'runs in one process'}"
    if flow.serving.max_runs is not None:
        yield f"streams: at most {flow.serving.max_runs} at once in all processes together"


def _service_facts(service: Service, processes: int) -> Iterator[str]:
    limit = service.max_in_flight
    if limit < processes:
        yield f"each process makes 1 call at once, {processes} in all, although max_in_flight is {limit}"
    else:
        alone = limit - processes + 1
        yield f"at most {limit} calls at once in all processes together, {alone} in one while the others are idle"
    if service.rate is not None:
        yield f"at most {service.rate:g} calls per second in all processes together"
    if service.breaker is not None:
        yield f"each process has its circuit breaker, with up to {service.breaker.probes} probes"
