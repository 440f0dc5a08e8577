"""`penstock run FLOW`: a flow over a file, a pipe, samples or a worker's source, with its results as lines."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import redirect_stdout

from penstock.arguments import positive, seconds
from penstock.complaints import complain
from penstock.errors import CheckpointRefused, FlowError, PenstockError
from penstock.formats import Format
from penstock.observe import set_up_logs
from penstock.outlets import check_outlets
from penstock.runner.execution import Job, Resumable, execute
from penstock.runner.finding import find_flow
from penstock.runner.jobs import changed, make_job
from penstock.runner.progress import summary_line
from penstock.runner.resuming import save
from penstock.sinks import End

DESCRIPTION = """\
Run a flow once. Results are on standard output, a line each, as over HTTP; the last line is the end record, by which
a reader knows that nothing was cut. Everything else is on standard error.
"""

EPILOG = """\
Exit codes: 0 all is well, 1 something failed or the run did not come to its end, 2 wrong usage. SIGINT and SIGTERM
end the input and finish what is in flight; a second one cancels it.
"""


def command(arguments: list[str]) -> int:
    """Run a flow; returns 0, or 1 if anything failed or was cut."""
    options = make_parser().parse_args(arguments)
    with redirect_stdout(sys.stderr):  # results go by descriptor; what modules and steps print must not be among them
        return run(options)


def run(options: argparse.Namespace) -> int:
    """Run the flow that was asked for; returns the exit code."""
    try:
        found = find_flow(options.flow)
        found = found._replace(flow=changed(found.flow, options))
        check_outlets(found.flow.outlets.values(), locks=True)
        job = make_job(found, options)
    except (FlowError, ValueError, CheckpointRefused) as error:
        return complain("run", error, 2)
    except (PenstockError, OSError) as error:
        return complain("run", error)

    set_up_logs(options.log_format, options.log_level)
    try:
        if job.resumable is not None and (end := job.resumable.journal.end) is not None:
            return tell_complete(job, job.resumable, end)
        return asyncio.run(execute(job))
    except PenstockError as error:
        return complain("run", error)
    finally:
        job.output.close()


def make_parser() -> argparse.ArgumentParser:
    """The words and flags of the command."""
    parser = argparse.ArgumentParser(prog="penstock run", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("flow", metavar="FLOW", help="a flow file, or module:name of a flow in Python")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--input", metavar="FILE", help="its lines are the items; - is standard input, the default")
    origin.add_argument("--worker", metavar="NAME", help="run what this worker of the flow runs, once")
    origin.add_argument("--samples", metavar="N", type=positive, help="run so many samples of the flow")
    parser.add_argument("--format", choices=list(Format), help="the format of the input, if its name does not tell")
    parser.add_argument("--output", metavar="FILE", help="write results to a file instead, anew")
    parser.add_argument("--checkpoint", metavar="FILE", help="keep here how far it is: after a kill, go on from there")
    parser.add_argument(
        "--checkpoint-every", metavar="SECONDS", type=seconds, default=1.0, help="how often (default 1)"
    )
    parser.add_argument("--restart", action="store_true", help="throw away the checkpoint and the output, begin anew")
    parser.add_argument("--order", choices=("input", "completion"), help="the order of results, if not the flow's")
    parser.add_argument("--window", metavar="N", type=positive, help="items in flight, if not as many as the flow says")
    parser.add_argument("--dead-letters", metavar="URL", help="where failures are kept, if not where the flow says")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")
    parser.add_argument("--log-format", choices=("auto", "json", "console"), default="auto")
    return parser


def tell_complete(job: Job, resumable: Resumable, end: End) -> int:
    """A run that is complete needs no other; returns the exit code that it had."""
    asyncio.run(save(resumable.path, resumable.output, resumable.journal.checkpoint(resumable.output.offset)))
    if not job.quiet:
        job.messages.write(f"{summary_line(job.flow.name, end)}\n  it was complete; nothing was left to do\n")
    return 1 if end.failed else 0
