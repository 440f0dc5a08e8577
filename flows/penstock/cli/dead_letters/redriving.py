"""`penstock dead-letters plan|redrive|resume`: show what a redrive would do, do it, and follow its job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from penstock.cli.dead_letters.arguments import (
    DeskOptions,
    desk_options,
    filter_options,
    fraction_of,
    json_option,
    rate_of,
    reason_option,
    sizes_of,
    yes_option,
)
from penstock.cli.dead_letters.following import follow
from penstock.cli.dead_letters.opening import confirm, with_desk
from penstock.cli.dead_letters.tables import Table, plural
from penstock.cli.options import Command, positive
from penstock.cli.run.progress import clock
from penstock.deadletters.dead_letter_queue import REDRIVE_LIMIT, Job, JobOptions, Requester
from penstock.deadletters.store import DeadLetterQuery
from penstock.errors import NotSupportedByStore, RequestRefused
from penstock.redrive.desk import Desk
from penstock.redrive.documents import job_document, log_report_document, plan_document, try_document
from penstock.redrive.records import LogReport, Plan, TryResult
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data
from penstock.support.text import printable

F = TypeVar("F", bound=Callable[..., Any])


def job_options(function: F) -> F:
    """Add the options of a job."""
    decorated: Any = function
    for option in (
        click.option("--from-start", is_flag=True, help="Call all services again, also those whose results are kept."),
        click.option(
            "--limit",
            metavar="N",
            type=positive,
            default=REDRIVE_LIMIT,
            show_default=True,
            help="Park a letter that failed in this many redrives.",
        ),
        click.option("--rate", metavar="RATE", type=rate_of, help="Maximum letters per second, such as 50/s or 600/m."),
        click.option(
            "--stop-at", metavar="PERCENT", type=fraction_of, help="Stop when more of a batch fails again, such as 20%."
        ),
        click.option("--canary", metavar="N,N", type=sizes_of, help="Sizes of the first batches, such as 1,5,50."),
        click.option("--through", metavar="FLOW", help="Run the letters through this flow instead of their own."),
    ):
        decorated = option(decorated)
    checked: F = decorated
    return checked


def options_from(through: str | None, *, canary: tuple[int, ...] | None, **options: Any) -> JobOptions:
    """Make the options of a job from those of a command."""
    return JobOptions(flow=through, canary=canary or (), **options)


@click.command(cls=Command)
@filter_options(state=False)
@job_options
@json_option
@desk_options
def plan(place: DeskOptions, query: DeadLetterQuery, as_json: bool, through: str | None, **options: Any) -> int:
    """Show what `redrive` with the same options would do: letters, groups, calls of services, and duration."""

    async def work(desk: Desk) -> int:
        planned = await desk.plan(query, options_from(through, **options))
        if as_json:
            write_data(encode_json(plan_document(planned)) + b"\n")
        else:
            write_data("".join(f"{line}\n" for line in plan_lines(planned)))
        return 0

    return with_desk(place, work, redrive=True, write=False)


@click.command(cls=Command)
@filter_options(state=False)
@job_options
@click.option("--try", "trials", metavar="N", type=positive, help="Only run N letters without sinks; change nothing.")
@click.option("--detach", is_flag=True, help="Do not wait for the job; a service runs it.")
@yes_option
@reason_option
@json_option
@desk_options
def redrive(
    place: DeskOptions,
    query: DeadLetterQuery,
    through: str | None,
    trials: int | None,
    detach: bool,
    yes: bool,
    requester: Requester,
    as_json: bool,
    **options: Any,
) -> int:
    """Run waiting letters again through their flow, as a job. Shows the plan and asks first, unless --yes.

    --flow selects letters; --through names another flow to run them through. On a store, the job runs in this process:
    SIGINT pauses it after the letters in flight are settled, and `resume` continues it, also after a crash. With --url
    the job runs in the service, and SIGINT only ends the display of its progress.
    """
    chosen = options_from(through, **options)

    async def work(desk: Desk) -> int:
        if trials is not None:
            return _report_trials(await desk.try_letters(query, chosen, trials), as_json=as_json)
        if not confirm(*await _announce(desk, query, chosen), yes=yes):
            return 1
        created = await desk.redrive(query, chosen, requester)
        if isinstance(created, LogReport):
            return _report_log(created, as_json=as_json)
        if detach:
            return _report_created(created, as_json=as_json)
        return await follow(desk, created.id, place, requester, as_json=as_json)

    return with_desk(place, work, redrive=not detach or trials is not None)


@click.command(cls=Command)
@click.argument("job", metavar="JOB")
@click.option("--detach", is_flag=True, help="Do not wait for the job; a service runs it.")
@reason_option
@json_option
@desk_options
def resume(place: DeskOptions, job: str, detach: bool, requester: Requester, as_json: bool) -> int:
    """Continue a job that was paused or stopped, or whose process was killed, and follow it to its end.

    Letters that a killed process had in flight are taken again when their lease of 30 seconds has expired.
    """

    async def work(desk: Desk) -> int:
        resumed = await desk.change_job(job, requester, state="running")
        if detach:
            return _report_created(resumed, as_json=as_json)
        return await follow(desk, job, place, requester, as_json=as_json)

    return with_desk(place, work, redrive=True)


async def _announce(desk: Desk, query: DeadLetterQuery, options: JobOptions) -> tuple[list[str], str]:
    """Return what a redrive would do, and the question."""
    try:
        planned = await desk.plan(query, options)
    except (NotSupportedByStore, RequestRefused) as error:
        if isinstance(error, RequestRefused) and error.code != "not_supported_by_store":
            raise
        return ["the letters are in a log, so their number is not known"], "Redrive all that match?"
    return list(plan_lines(planned)), f"Redrive {plural(planned.letters, 'letter')}?"


def plan_lines(planned: Plan) -> Iterator[str]:
    """Yield what a redrive would do."""
    groups = Table(("GROUP", "LETTERS", "FLOW", "STEP", "TYPE", "MESSAGE"))
    yield from groups.lines(
        [(each.id, str(each.letters), each.flow, each.step, each.type, each.pattern) for each in planned.groups]
    )
    duration = "" if planned.seconds is None else f", at least {clock(planned.seconds)}"
    yield f"{plural(planned.letters, 'letter')}{duration}"
    for name, count in planned.services.items():
        yield f"calls {printable(name)} for {plural(count, 'letter')}"
    for name, count in planned.kept.items():
        yield f"uses the kept result of {printable(name)} for {plural(count, 'letter')}"
    for warning in planned.warnings:
        yield f"warning: {printable(warning)}"


def _report_trials(results: list[TryResult], *, as_json: bool) -> int:
    """Write the outcomes of trials. Returns 1 if one failed."""
    if as_json:
        write_data(b"".join(encode_json(try_document(result)) + b"\n" for result in results))
    else:
        rows = [
            (one.id, "" if one.key is None else str(one.key), one.outcome, one.error or encode_json(one.value).decode())
            for one in results
        ]
        write_data("".join(f"{line}\n" for line in Table(("ID", "KEY", "OUTCOME", "VALUE OR ERROR")).lines(rows)))
    return 1 if any(result.outcome in ("failed", "cancelled") for result in results) else 0


def _report_log(report: LogReport, *, as_json: bool) -> int:
    """Write the outcome of the redrive of a log. Returns 1 if a letter failed again."""
    if as_json:
        write_data(encode_json(log_report_document(report)) + b"\n")
    else:
        parts = [f"{report.resolved:,} resolved", f"{report.failed:,} failed again and were appended again"]
        if report.parked:
            parts.append(f"{report.parked:,} of these parked")
        write_data(f"{plural(report.total, 'letter')}: {', '.join(parts)}\n")
    return 1 if report.failed or report.cancelled else 0


def _report_created(job: Job, *, as_json: bool) -> int:
    if as_json:
        write_data(encode_json(job_document(job)) + b"\n")
    else:
        write_data(f"{job.id}\n")
        sys.stderr.write(f"job {job.id} is {job.state}; a service with this store runs it\n")
    return 0
