"""Describe flows as JSON values: the definition, the revisions and the counts of this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from penstock.backends.server_url import hide_password
from penstock.core.element import Outcome
from penstock.flow.flow import Flow
from penstock.runtime import FlowStatistics
from penstock.services import Service
from penstock.steps import Step
from penstock_http.deployments.revision import RegisteredFlow
from penstock_http.state import AppState

NO_DEFINITION: dict[str, Any] = {
    "description": "",
    "item": None,
    "key": None,
    "window": None,
    "deadline": None,
    "steps": [],
    "services": [],
    "workers": [],
    "deadLetters": None,
}
"""The definition of a flow that was removed."""


def describe(state: AppState, registered: RegisteredFlow, *, trusted: bool) -> dict[str, Any]:
    """Return a flow as JSON values: its definition, its revisions and its counts."""
    totals = state.supervisor.flow_statistics.get(registered.name) or FlowStatistics(registered.name)
    active = registered.active
    runs = state.supervisor.runs_by_revision(registered.name)
    return {
        "name": registered.name,
        "path": f"/{active.path_name}/bulk" if active and active.path_name else None,
        **(describe_definition(active.flow) if active else NO_DEFINITION),
        "active": active.number if active else None,
        "revisions": [revision.document(runs[revision.number]) for revision in reversed(registered.revisions)],
        "lastReload": registered.last_result and registered.last_result.document(trusted=trusted),
        "runs": dict(totals.active()),
        "received": totals.received,
        "inFlight": totals.in_flight,
        "settled": {outcome.value: totals.settled(outcome) for outcome in Outcome},
    }


def describe_definition(flow: Flow[Any]) -> dict[str, Any]:
    """Return the definition of a flow as JSON values, with the current counts of its services."""
    return {
        "description": flow.description,
        "item": getattr(flow.item, "__name__", None),
        "key": flow.key,
        "window": {"elements": flow.elements, "bytes": flow.bytes},
        "deadline": flow.max_seconds,
        "steps": list(describe_steps(flow.steps)),
        "services": [describe_service(service) for service in flow.all_services],
        "workers": [worker.name for worker in flow.workers],
        "deadLetters": flow.dead_letter_url and hide_password(flow.dead_letter_url),
    }


def describe_service(service: Service) -> dict[str, Any]:
    """Return a service as JSON values: its limits, its calls and its circuit breaker."""
    now = service.statistics()
    breaker = {
        "state": now.breaker,
        "opened": now.opened,
        "openSeconds": round(now.open_seconds, 3),
        "nextProbeSeconds": None if now.next_probe_seconds is None else round(now.next_probe_seconds, 3),
    }
    return {
        "name": service.name,
        "maxInFlight": service.max_in_flight,
        "timeout": service.timeout,
        "attempts": service.attempts,
        "inFlight": now.in_flight,
        "limit": now.limit,
        "waiting": now.waiting,
        "retries": now.retries,
        "calls": now.results,
        "pacedSeconds": round(now.paced_seconds, 3),
        "breaker": None if now.breaker == "none" else breaker,
    }


def describe_steps(steps: Iterable[Step], branch: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield each step, followed by the steps of its branches. `branch` is the branch of the steps, as STEP.BRANCH."""
    for step in steps:
        services = [service.name for service in step.services.values()]
        yield {"name": step.name, "kind": step.kind, "branch": branch, "services": services}
        for inner in step.branches:
            yield from describe_steps(inner.steps, f"{step.name}.{inner.name}")
