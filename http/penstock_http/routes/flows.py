"""`/flows`: list and show flows, and deploy or delete a flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web

from penstock.backends.server_url import hide_password
from penstock.core.element import Outcome
from penstock.flow.flow import Flow
from penstock.flowfile.limits import MAX_BYTES
from penstock.runtime import FlowStatistics
from penstock.services import Service
from penstock.steps import Step
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus
from penstock_http.deployments.revision import RegisteredFlow
from penstock_http.media import json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize_upload, is_trusted
from penstock_http.requests.body import read_body, send_continue
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.state import STATE, AppState

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


async def list_flows(request: web.Request) -> web.Response:
    """Respond with all flows and the last reload."""
    state = request.app[STATE]
    active = [flow for flow in state.registry.flows.values() if flow.active is not None]
    last, trusted = state.reloader.last, is_trusted(request)
    flows = [describe(state, flow, trusted=trusted) for flow in active]
    return json_response({"flows": flows, "lastReload": last and last.document(trusted=trusted)})


async def show_flow(request: web.Request) -> web.Response:
    """Respond with one flow."""
    state = request.app[STATE]
    flow = state.registered_flow(request.match_info["name"])
    return json_response(describe(state, flow, trusted=is_trusted(request)))


async def put_flow(request: web.Request) -> web.Response:
    """Deploy the flow in the body, or only validate it."""
    authorize_upload(request)
    negotiation.reject_unknown_parameters(request, "dry-run")
    dry_run = negotiation.boolean_parameter(request.query, "dry-run")
    format = negotiation.flow_content_type(request)
    state = request.app[STATE]
    name = request.match_info["name"]
    existed = name in state.registry.flows
    await send_continue(request)
    result = await state.reloader.put(name, await _read_flow(request, state), format, dry_run=dry_run)
    if result.outcome is DeploymentStatus.REJECTED:
        raise _invalid_flow(result)
    return json_response(result.document() | {"dryRun": dry_run}, 200 if existed or dry_run else 201)


async def delete_flow(request: web.Request) -> web.Response:
    """Remove an uploaded flow."""
    authorize_upload(request)
    negotiation.reject_unknown_parameters(request)
    result = await request.app[STATE].reloader.delete(request.match_info["name"])
    return json_response(result.document())


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


async def _read_flow(request: web.Request, state: AppState) -> str:
    """Read a flow file from the body. Raises 400, 408 and 413."""
    settings = state.settings
    chunks = StallDetector(settings.stall_timeout, settings.min_rate).read(request)
    limit = min(settings.max_body, MAX_BYTES)
    body = await read_body(chunks, limit, f"a flow file can have at most {limit} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise RequestRejected(400, "malformed_body", f"the body is not UTF-8: invalid byte at {error.start}") from None


def _invalid_flow(result: DeploymentResult) -> RequestRejected:
    """Return the rejection of a flow with errors: 422, with the list of errors."""
    more = len(result.diagnostics) - 1 + result.more_diagnostics
    detail = f"{result.diagnostics[0]}" + (f" (and {more} more, see diagnostics)" if more else "")
    document = result.document()
    members = {name: document[name] for name in ("diagnostics", "moreDiagnostics")}
    return RequestRejected(422, "invalid_flow", detail, members=members)
