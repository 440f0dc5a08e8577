"""`/flows`: what is served, in which revisions; and a flow file to be served from now on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web

from penstock.core.element import Outcome
from penstock.flow.flow import Flow
from penstock.flowfile.limits import MAX_BYTES
from penstock.runtime import FlowStatistics
from penstock.steps.step import NamedStep
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus
from penstock_http.deployments.revision import RegisteredFlow
from penstock_http.media import json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize_upload, is_trusted
from penstock_http.requests.body import read_body, send_continue
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.state import CONTEXT, AppState


async def list_flows(request: web.Request) -> web.Response:
    """All flows."""
    context = request.app[CONTEXT]
    entries = [entry for entry in context.catalogue.entries.values() if entry.active is not None]
    last, trusted = context.reloading.last, is_trusted(request)
    flows = [describe(context, entry, trusted=trusted) for entry in entries]
    return json_response({"flows": flows, "lastReload": last and last.document(trusted=trusted)})


async def show_flow(request: web.Request) -> web.Response:
    """One flow."""
    context = request.app[CONTEXT]
    return json_response(describe(context, context.entry(request.match_info["name"]), trusted=is_trusted(request)))


async def put_flow(request: web.Request) -> web.Response:
    """Serve the flow of the body from now on, or only check it."""
    authorize_upload(request)
    negotiation.reject_unknown_parameters(request, "dry-run")
    dry = negotiation.flag(request.query, "dry-run")
    format = negotiation.flow_content_type(request)
    context = request.app[CONTEXT]
    name = request.match_info["name"]
    known = name in context.catalogue.entries
    await send_continue(request)
    receipt = await context.reloading.put(name, await read_flow(request, context), format, dry=dry)
    if receipt.outcome is DeploymentStatus.REFUSED:
        raise mistaken(receipt)
    return json_response(receipt.document() | {"dryRun": dry}, 200 if known or dry else 201)


async def delete_flow(request: web.Request) -> web.Response:
    """Remove a flow that came by PUT."""
    authorize_upload(request)
    negotiation.reject_unknown_parameters(request)
    receipt = await request.app[CONTEXT].reloading.delete(request.match_info["name"])
    return json_response(receipt.document())


def mistaken(receipt: DeploymentResult) -> RequestRejected:
    """The refusal of a flow that has mistakes: 422, with each of them."""
    more = len(receipt.mistakes) - 1 + receipt.more
    said = f"{receipt.mistakes[0]}" + (f" (and {more} more, see diagnostics)" if more else "")
    return RequestRejected(
        422,
        "invalid_flow",
        said,
        more={name: receipt.document()[name] for name in ("diagnostics", "moreDiagnostics")},
    )


async def read_flow(request: web.Request, context: AppState) -> str:
    """The text of a flow file; raises 400, 408 and 413."""
    settings = context.settings
    arrivals = StallDetector(settings.stall_timeout, settings.min_rate).read(request)
    limit = min(settings.max_body, MAX_BYTES)
    body = await read_body(arrivals, limit, f"a flow file may have {limit} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise RequestRejected(400, "malformed_body", f"the body is not UTF-8: invalid byte at {error.start}") from None


def describe(context: AppState, entry: RegisteredFlow, *, trusted: bool) -> dict[str, Any]:
    """A flow as a document: its description, its revisions, and what it did so far."""
    totals = context.supervisor.flow_statistics.get(entry.name) or FlowStatistics(entry.name)
    revision = entry.active
    runs = context.supervisor.runs_by_revision(entry.name)
    return {
        "name": entry.name,
        "path": f"/{revision.served_as}/bulk" if revision and revision.served_as else None,
        **(said(revision.flow) if revision else NOTHING),
        "active": revision.number if revision else None,
        "revisions": [each.document(runs[each.number]) for each in reversed(entry.revisions)],
        "lastReload": entry.last and entry.last.document(trusted=trusted),
        "runs": dict(totals.active()),
        "received": totals.received,
        "inFlight": totals.in_flight,
        "settled": {outcome.value: totals.settled(outcome) for outcome in Outcome},
    }


NOTHING: dict[str, Any] = {
    "description": "",
    "item": None,
    "key": None,
    "window": None,
    "steps": [],
    "services": [],
    "workers": [],
    "deadLetters": None,
}
"""What is said of a flow that was removed."""


def said(flow: Flow[Any]) -> dict[str, Any]:
    """What a flow says of itself, and how its services are."""
    return {
        "description": flow.about,
        "item": getattr(flow.item, "__name__", None),
        "key": flow.key,
        "window": {"elements": flow.elements, "bytes": flow.bytes},
        "steps": list(steps_of(flow.steps)),
        "services": [
            {
                "name": service.name,
                "maxInFlight": service.max_in_flight,
                "timeout": service.timeout,
                "attempts": service.attempts,
                "inFlight": now.in_flight,
                "waiting": now.waiting,
                "retries": now.retries,
                "calls": now.results,
            }
            for service, now in ((service, service.statistics()) for service in flow.services)
        ],
        "workers": [worker.name for worker in flow.workers],
        "deadLetters": flow.dead_letter_url,
    }


def steps_of(steps: Iterable[NamedStep], branch: str | None = None) -> Iterator[dict[str, Any]]:
    """All steps, each followed by those on its branches; `branch` is the one that they are on: `STEP.BRANCH`."""
    for step in steps:
        services = [service.name for service in step.services]
        yield {"name": step.name, "kind": step.kind, "branch": branch, "services": services}
        for way in step.ways:
            yield from steps_of(way.steps, f"{step.name}.{way.name}")
