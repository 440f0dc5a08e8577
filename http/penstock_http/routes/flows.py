"""`/flows`: what is served."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from penstock.element import Outcome
from penstock.runtime import Totals
from penstock_http.context import CONTEXT, Context, Served


async def list_flows(request: web.Request) -> web.Response:
    """All flows."""
    context = request.app[CONTEXT]
    return _json({"flows": [describe(context, served) for served in context.flows.values()]})


async def show_flow(request: web.Request) -> web.Response:
    """One flow."""
    context = request.app[CONTEXT]
    return _json(describe(context, context.served(request.match_info["name"])))


def describe(context: Context, served: Served) -> dict[str, Any]:
    """A flow as a document: its description, and what it did so far."""
    flow = served.flow
    totals = context.supervisor.totals.get(flow.name) or Totals(flow.name)
    return {
        "name": flow.name,
        "path": f"/{flow.name}/bulk",
        "item": getattr(flow.item, "__name__", None),
        "key": flow.key,
        "window": {"elements": flow.elements, "bytes": flow.bytes},
        "steps": [
            {"name": step.name, "kind": step.kind, "services": [service.name for service in step.services]}
            for step in flow.steps
        ],
        "services": [
            {
                "name": service.name,
                "maxInFlight": service.max_in_flight,
                "timeout": service.timeout,
                "attempts": service.attempts,
                "inFlight": service.in_flight,
                "waiting": service.waiting,
                "retries": service.retries,
                "calls": service.results,
            }
            for service in flow.services
        ],
        "deadLetters": flow.store if isinstance(flow.store, str) else getattr(flow.store, "url", None),
        "runs": dict(totals.active()),
        "received": totals.received,
        "inFlight": totals.in_flight,
        "settled": {outcome.value: totals.settled(outcome) for outcome in Outcome},
    }


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document) + b"\n", content_type="application/json")
