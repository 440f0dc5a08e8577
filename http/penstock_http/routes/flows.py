"""`/flows`: list and show flows, and deploy or delete a flow."""

from __future__ import annotations

from aiohttp import web

from penstock.flowfile.limits import MAX_BYTES
from penstock_http.deployments.result import DeploymentResult, DeploymentStatus
from penstock_http.media import json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize_upload, is_trusted
from penstock_http.requests.body import read_body, send_continue
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.routes.all_processes import ALL_PROCESSES
from penstock_http.state import STATE, AppState


async def list_flows(request: web.Request) -> web.Response:
    """Respond with all flows and the last reload."""
    return json_response(await request.app[ALL_PROCESSES].flows(trusted=is_trusted(request)))


async def show_flow(request: web.Request) -> web.Response:
    """Respond with one flow."""
    name = request.match_info["name"]
    return json_response(await request.app[ALL_PROCESSES].flow(name, trusted=is_trusted(request)))


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
