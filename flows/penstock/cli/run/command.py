"""`penstock run FLOW`: run a flow once over a file, a pipe, samples or the source of a worker."""

from __future__ import annotations

import asyncio
import sys
from contextlib import redirect_stdout
from typing import Any

import click

from penstock.checkpoints.resume import save
from penstock.cli.options import FILE, Command, positive, print_error, seconds, usage_error
from penstock.cli.run.execute import Job, Resumable, execute
from penstock.cli.run.job import RunOptions, check_store_folder, job_from_options, with_overrides
from penstock.cli.run.progress import summary_line
from penstock.errors import CheckpointInvalid, FlowDefinitionError, PenstockError
from penstock.flowfile.find_flow import find_flow
from penstock.formats.format import Format
from penstock.observe import configure_logging
from penstock.results import EndRecord
from penstock.sinks import check_sinks
from penstock.support.event_loop import EVENT_LOOPS, check_event_loop, run_in_event_loop


@click.command(
    cls=Command,
    epilog="Exit codes: 0 all well; 1 an item failed or the run did not complete; 2 wrong usage. SIGINT and SIGTERM "
    "end the input and finish the items in flight; a second signal cancels them.",
)
@click.argument("flow", type=FILE)
@click.option("--input", metavar="FILE", type=FILE, help="Input file, one item per line (default: -, standard input).")
@click.option("--worker", metavar="NAME", help="Run the source of this worker of the flow, once.")
@click.option("--samples", metavar="N", type=positive, help="Run this many samples of the flow.")
@click.option(
    "--format",
    type=click.Choice([one.value for one in Format]),
    help="Format of the input (default: by its suffix; NDJSON for a pipe).",
)
@click.option("--output", metavar="FILE", type=FILE, help="Write results to a file, which is overwritten.")
@click.option("--checkpoint", metavar="FILE", type=FILE, help="Progress file; an interrupted run continues from it.")
@click.option(
    "--checkpoint-every",
    type=seconds,
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Interval of writing the progress file.",
)
@click.option("--restart", is_flag=True, help="Discard the progress file and the output, and start again.")
@click.option(
    "--order",
    type=click.Choice(["input", "completion", "key"]),
    help="Order of the results (default: as the flow says).",
)
@click.option("--window", metavar="N", type=positive, help="Maximum number of items in flight, instead of the flow's.")
@click.option("--dead-letters", metavar="URL", help="Dead-letter store, instead of the flow's: sqlite:///FILE.")
@click.option("--quiet", is_flag=True, help="Show no progress and no summary.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Lowest level that is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_default=True,
    help="Format of log lines; auto: console on a terminal, else JSON.",
)
@click.option(
    "--event-loop",
    type=click.Choice(EVENT_LOOPS),
    default="auto",
    show_default=True,
    envvar="PENSTOCK_EVENT_LOOP",
    show_envvar=True,
    help="Event loop; auto: uvloop if the extra penstock[uvloop] is installed.",
)
def run(**options: Any) -> int:
    """Run a flow once. FLOW is a flow file, or module:name of a flow in Python.

    Writes one result per line to standard output, as over HTTP. The last line is the end record: a stream without it is
    incomplete. Everything else is written to standard error.
    """
    sources = [f"--{name}" for name in ("input", "worker", "samples") if options[name] is not None]
    if len(sources) > 1:
        raise usage_error(f"{' and '.join(sources)} cannot be combined")
    with redirect_stdout(sys.stderr):  # results are written by descriptor; `print` in steps must not mix with them
        return run_flow(RunOptions(**options))


def run_flow(options: RunOptions) -> int:
    """Run a flow as the options say. Returns the exit code."""
    try:
        check_event_loop(options.event_loop)
        found = find_flow(options.flow)
        found = found._replace(flow=with_overrides(found.flow, options))
        check_sinks(found.flow.all_sinks.values(), locks=True)
        check_store_folder(found.flow)
        job = job_from_options(found, options)
    except (FlowDefinitionError, ValueError, CheckpointInvalid) as error:
        return print_error("run", error, 2)
    except (PenstockError, OSError) as error:
        return print_error("run", error)

    configure_logging(options.log_format, options.log_level)
    try:
        if job.resumable is not None and (end := job.resumable.journal.end) is not None:
            return report_complete(job, job.resumable, end)
        return run_in_event_loop(execute(job), options.event_loop)
    except PenstockError as error:
        return print_error("run", error)
    finally:
        job.output.close()


def report_complete(job: Job, resumable: Resumable, end: EndRecord) -> int:
    """Report that the checkpoint is of a run that completed. Returns the exit code that the run had."""
    asyncio.run(save(resumable.path, resumable.output, resumable.journal.checkpoint(resumable.output.offset)))
    if not job.quiet:
        job.messages.write(
            f"{summary_line(job.flow.name, end)}\n  the run had completed before; to run it again: --restart\n"
        )
    return 1 if end.failed else 0
