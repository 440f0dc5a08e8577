"""`penstock dead-letters jobs|pause|cancel|rate|audit`: see and change redrive jobs, and see what was done."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args

import click

from penstock.cli.dead_letters.arguments import (
    DeskOptions,
    desk_options,
    json_option,
    page_options,
    rate_of,
    reason_option,
)
from penstock.cli.dead_letters.opening import has_no, with_desk
from penstock.cli.dead_letters.tables import (
    AUDIT_HEADINGS,
    JOB_HEADINGS,
    Table,
    audit_row,
    job_lines,
    job_row,
    job_summary,
)
from penstock.cli.options import Command
from penstock.deadletters.dead_letter_queue import Job, JobState, Requester
from penstock.deadletters.store import PAGE, PAGE_LIMIT
from penstock.redrive.desk import Desk
from penstock.redrive.documents import audit_document, job_document
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data

NO_RATE = "none"
"""The rate of a job without one, on the command line."""


def rate_or_none(value: Any) -> float | None:
    """Convert an option to letters per second, or `none` to None."""
    return None if value == NO_RATE else rate_of(value)


@click.command(cls=Command)
@click.argument("job", metavar="[JOB]", required=False)
@click.option("--state", type=click.Choice(get_args(JobState)), help="Only jobs in this state.")
@page_options("jobs", limit=PAGE)
@json_option
@desk_options
def jobs(
    place: DeskOptions, job: str | None, state: JobState | None, limit: int, after: str | None, as_json: bool
) -> int:
    """List redrive jobs, newest first, or show one with its batches."""
    if job is not None:
        return with_desk(place, lambda desk: _show_job(desk.job(job), as_json=as_json), write=False)
    return with_desk(place, lambda desk: _jobs(desk, state, after, limit, as_json=as_json), write=False)


@click.command(cls=Command)
@click.argument("job", metavar="JOB")
@reason_option
@json_option
@desk_options
def pause(place: DeskOptions, job: str, requester: Requester, as_json: bool) -> int:
    """Pause a job. Letters in flight are finished; `resume` continues it."""
    return _change(place, job, requester, as_json=as_json, state="paused")


@click.command(cls=Command)
@click.argument("job", metavar="JOB")
@reason_option
@json_option
@desk_options
def cancel(place: DeskOptions, job: str, requester: Requester, as_json: bool) -> int:
    """Cancel a job for good. Letters in flight are finished; those that it has not redriven wait."""
    return _change(place, job, requester, as_json=as_json, state="cancelled")


@click.command(cls=Command)
@click.argument("job", metavar="JOB")
@click.argument("rate", metavar="RATE", type=rate_or_none)
@reason_option
@json_option
@desk_options
def rate(place: DeskOptions, job: str, rate: float | None, requester: Requester, as_json: bool) -> int:
    """Change the rate of a job while it runs. RATE is such as 50/s or 600/m; none removes the limit."""
    return _change(place, job, requester, as_json=as_json, rate=rate)


@click.command(cls=Command)
@click.option("--job", metavar="JOB", help="Only actions on this job.")
@page_options("records", limit=PAGE)
@json_option
@desk_options
def audit(place: DeskOptions, job: str | None, limit: int, after: str | None, as_json: bool) -> int:
    """List what was done to letters and jobs, newest first: who, what, how many letters, and why."""
    return with_desk(place, lambda desk: _audit(desk, job, after, limit, as_json=as_json), write=False)


def _change(
    place: DeskOptions,
    job: str,
    requester: Requester,
    *,
    as_json: bool,
    state: Literal["paused", "cancelled"] | None = None,
    rate: float | Literal["keep"] | None = "keep",
) -> int:
    async def work(desk: Desk) -> int:
        changed = await desk.change_job(job, requester, state=state, rate=rate)
        if as_json:
            write_data(encode_json(job_document(changed)) + b"\n")
        elif state is None:
            limit = changed.options.rate
            write_data(f"job {job}: {'no rate' if limit is None else f'{limit:g} letters per second'}\n")
        else:
            write_data(job_summary(changed) + "\n")
        return 0

    return with_desk(place, work)


async def _show_job(found: Awaitable[Job], *, as_json: bool) -> int:
    job = await found
    write_data(encode_json(job_document(job)) + b"\n" if as_json else "".join(f"{line}\n" for line in job_lines(job)))
    return 0


async def _jobs(desk: Desk, state: JobState | None, after: str | None, limit: int, *, as_json: bool) -> int:
    limit = min(limit, PAGE_LIMIT)
    found = await desk.jobs(state=state, after=after, limit=limit)
    _write([job_document(job) for job in found], lambda: Table(JOB_HEADINGS).lines(list(map(job_row, found))), as_json)
    if not found:
        sys.stderr.write(has_no(desk, f"redrive jobs{f' that are {state}' if state else ''}\n"))
    elif len(found) == limit:
        sys.stderr.write(f"there may be more; continue with --after {found[-1].id}\n")
    return 0


async def _audit(desk: Desk, job: str | None, after: str | None, limit: int, *, as_json: bool) -> int:
    page = await desk.audit(job=job, after=after, limit=min(limit, PAGE_LIMIT))
    rows = list(map(audit_row, page.records))
    _write([audit_document(record) for record in page.records], lambda: Table(AUDIT_HEADINGS).lines(rows), as_json)
    if not page.records:
        sys.stderr.write(has_no(desk, f"audit records{f' of job {job}' if job else ''}\n"))
    elif page.next is not None:
        sys.stderr.write(f"there may be more; continue with --after {page.next}\n")
    return 0


def _write(documents: list[dict[str, Any]], lines: Callable[[], Any], as_json: bool) -> None:
    """Write documents as JSON, one per line, or as the lines of a table, if there are any."""
    if as_json:
        write_data(b"".join(encode_json(document) + b"\n" for document in documents))
    elif documents:
        write_data("".join(f"{line}\n" for line in lines()))
