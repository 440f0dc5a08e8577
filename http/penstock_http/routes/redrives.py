"""`/dead-letters/redrives`: plan, try, create, follow and change redrives of dead letters."""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal, get_args

import msgspec
from aiohttp import web

from penstock.deadletters.dead_letter_queue import Job, JobState
from penstock.errors import JobNotFound
from penstock.redrive.documents import (
    check_rate,
    job_document,
    log_report_document,
    options_of,
    plan_document,
    try_document,
)
from penstock.support.ids import id_of
from penstock_http.media import JSON, SSE, json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize
from penstock_http.requests.json_body import JsonBody, converted, invalid_body, read_object
from penstock_http.responses.chunks import stream_chunks
from penstock_http.routes.letters import check_selection, limit_of, query_in
from penstock_http.state import STATE

OPTIONS = ("flow", "canary", "stopAt", "rate", "limit", "fromStart")
"""Fields of a redrive that are options of the job."""

MAX_TRIES = 20
"""Maximum number of dead letters that one request tries."""

PROGRESS_SECONDS = 1.0
"""Minimum seconds between two events with the progress of a job."""

HEARTBEAT_SECONDS = 15.0
"""Seconds without news after which a comment is sent, so that proxies keep the connection and lost ones are noticed."""

State = Literal["running", "paused", "cancelled"]


async def create_redrive(request: web.Request) -> web.Response:
    """Create a redrive; or only plan it, or try some dead letters."""
    name = authorize(request, "redrive")
    negotiation.reject_unknown_parameters(request)
    body = await read_object(request, ("query", *OPTIONS, "plan", "try", "all", "reason"))
    plan, tries = body.get("plan", bool, False, "true or false"), body.get("try", int, 0, "an integer")
    if plan and tries:
        raise invalid_body("plan, try: expected only one of them")
    if "try" in body and not 1 <= tries <= MAX_TRIES:
        raise invalid_body(f"try: expected a number of dead letters from 1 to {MAX_TRIES}, got {tries}")
    query, options = query_in(body), converted(lambda: options_of(body.document(*OPTIONS)))
    requester = body.requester(name)
    desk = request.app[STATE].desk
    if plan:
        return json_response(plan_document(await desk.plan(query, options)))
    if tries:
        authorize(request, "read")  # the response has the results
        with request.app[STATE].redrives.enter():
            results = await desk.try_letters(query, options, tries)
        return json_response({"results": [try_document(result) for result in results]})
    check_selection(body, query)
    request.app[STATE].supervisor.check()
    with request.app[STATE].redrives.enter():
        created = await desk.redrive(query, options, requester)
    if not isinstance(created, Job):
        return json_response(log_report_document(created))
    response = json_response(job_document(created), 201)
    response.headers["Location"] = f"/dead-letters/redrives/{created.id}"
    return response


async def list_redrives(request: web.Request) -> web.Response:
    """Respond with one page of jobs, newest first."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, "state", "after", "limit")
    state, limit = request.query.get("state"), limit_of(request)
    known = get_args(JobState)
    if state is not None and state not in known:
        raise RequestRejected(400, "bad_parameter", f"state: expected one of {', '.join(known)}, got {state!r}")
    found = msgspec.convert(state, JobState | None)
    jobs = await request.app[STATE].desk.jobs(state=found, after=request.query.get("after"), limit=limit)
    following = jobs[-1].id if len(jobs) == limit else None
    return json_response({"redrives": [job_document(job) for job in jobs], "next": following})


async def show_redrive(request: web.Request) -> web.StreamResponse:
    """Respond with a job, or with its progress as server-sent events until it is no longer running."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request)
    media_type = negotiation.response_type(request, (JSON, SSE))
    state, id = request.app[STATE], _id_of(request)
    if media_type == JSON:
        return json_response(job_document(await state.desk.job(id)))
    await state.desk.job(id)
    return await stream_chunks(request, SSE, _events(request, id), flush=True)


async def change_redrive(request: web.Request) -> web.Response:
    """Pause, resume or cancel a job, or change its rate."""
    name = authorize(request, "redrive")
    negotiation.reject_unknown_parameters(request)
    body = await read_object(request, ("state", "rate", "reason"))
    if "state" not in body and "rate" not in body:
        raise invalid_body("the body: expected state (running, paused or cancelled) or rate")
    state: State | None = body.get("state", State, None, "running, paused or cancelled")  # type: ignore[arg-type]
    job = await request.app[STATE].desk.change_job(
        _id_of(request), body.requester(name), state=state, rate=_rate_of(body)
    )
    return json_response(job_document(job))


def _id_of(request: web.Request) -> str:
    """Return the id of the job in the path. Raises 404 for a text that is not an id."""
    text = request.match_info["id"]
    try:
        return id_of(text)
    except ValueError:
        raise JobNotFound(text) from None


def _rate_of(body: JsonBody) -> float | Literal["keep"] | None:
    """Return the new rate; null removes it."""
    if "rate" not in body:
        return "keep"
    found: Any = body.document("rate")["rate"]
    if found is None:
        return None
    rate = body.get("rate", float, 0.0, "a number of dead letters per second, or null for no limit")
    converted(lambda: check_rate(rate))
    return rate


async def _events(request: web.Request, id: str) -> AsyncGenerator[bytes, None]:
    """Yield events until the job is no longer running, then `end`; or until the service stops, without `end`."""
    state, loop = request.app[STATE], asyncio.get_running_loop()
    async with aclosing(_progress(state.desk.progress(id))) as jobs:
        stopping = loop.create_task(state.streams.stopping.wait(), name="progress:stopping")
        following = loop.create_task(anext(jobs, None), name=f"progress:{id}")
        try:
            while not stopping.done():
                await asyncio.wait({following, stopping}, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
                if stopping.done():
                    return
                if not following.done():
                    yield b": waiting\n\n"
                    continue
                if (job := following.result()) is None:
                    return
                following, sent = loop.create_task(anext(jobs, None), name=f"progress:{id}"), loop.time()
                yield _event("progress", job)
                if job.state != "running":
                    yield _event("end", job)
                    return
                await asyncio.wait({stopping}, timeout=max(0.0, sent + PROGRESS_SECONDS - loop.time()))
        finally:
            for task in (following, stopping):
                task.cancel()
            await asyncio.gather(following, stopping, return_exceptions=True)


async def _progress(jobs: Any) -> AsyncGenerator[Job, None]:
    async with aclosing(jobs) as progress:
        async for job in progress:
            yield job


def _event(name: str, job: Job) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(job_document(job)))
