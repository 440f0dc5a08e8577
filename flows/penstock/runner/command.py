"""`penstock run FLOW`: a flow over a file, a pipe, samples or a worker's source, with its results as lines."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable
from functools import partial

from penstock.errors import CheckpointRefused, FlowError, PenstockError
from penstock.flow import Flow
from penstock.formats import Format, format_of
from penstock.observe import set_up_logs
from penstock.outlets import StandardOutput
from penstock.runner.execution import Job, Resumable, execute
from penstock.runner.finding import Found, find_flow
from penstock.runner.inputs import FileInput, PipeInput, facts_of, share_of_stdin, size_of
from penstock.runner.outputs import open_output, standard_output
from penstock.runner.progress import summary_line
from penstock.runner.resuming import open_resumable, save
from penstock.sinks import End
from penstock.sources import Source, generated
from penstock.steps import walk

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
    parser = make_parser()
    options = parser.parse_args(arguments)
    set_up_logs(options.log_format, options.log_level)
    try:
        found = find_flow(options.flow)
        found = found._replace(flow=changed(found.flow, options))
        job = make_job(found, options)
    except (FlowError, ValueError, CheckpointRefused) as error:
        return complain(str(error), 2)
    except (PenstockError, OSError) as error:
        return complain(str(error), 1)

    try:
        if job.resumable is not None and (end := job.resumable.journal.end) is not None:
            return tell_complete(job, job.resumable, end)
        return asyncio.run(execute(job))
    except PenstockError as error:
        return complain(str(error), 1)
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


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"has to be a whole number from 1 on, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time above 0, in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"has to be a number of seconds above 0, got {text!r}")
    return value


def changed(flow: Flow[object], options: argparse.Namespace) -> Flow[object]:
    """The flow, with what the flags say instead."""
    if options.window is not None:
        flow = flow.window(options.window)
    if options.dead_letters is not None:
        flow = flow.dead_letters(options.dead_letters, redact=flow.redacted)
    return flow


def make_job(found: Found, options: argparse.Namespace) -> Job:
    """What is to be run. Raises `PenstockError`, `OSError` and `ValueError` for what cannot be meant."""
    flow = found.flow
    ordered = flow.ordered if options.order is None else options.order == "input"
    if options.output is None and writes_to_stdout(flow):
        raise FlowError("this flow writes to standard output itself; give its results a place of their own: --output")
    if options.checkpoint is not None or options.restart:
        return resumable_job(found, options, ordered=ordered)

    source = make_source(flow, options)
    output = standard_output() if options.output in (None, "-") else open_output(options.output)
    return Job(
        flow=flow,
        source=source,
        output=output,
        ordered=ordered,
        share=share_of_stdin() if isinstance(source, PipeInput) else None,
        progress=shows_progress(options),
        quiet=options.quiet,
    )


def make_source(flow: Flow[object], options: argparse.Namespace) -> Source[object]:
    """Where the items come from."""
    if options.format is not None and (options.worker or options.samples):
        raise FlowError("--format is for --input and standard input")
    if options.worker is not None:
        workers = {worker.name: worker for worker in flow.workers}
        if options.worker not in workers:
            raise FlowError(f"flow {flow.name} has no worker {options.worker!r} (workers: {named(workers)})")
        return workers[options.worker].source
    if options.samples is not None:
        if flow.samples is None:
            raise FlowError(f"flow {flow.name} has no samples; say in it what they are, or use --input")
        return generated(options.samples, flow.samples)
    if options.input in (None, "-"):
        return PipeInput(Format(options.format or Format.NDJSON))
    check_input(options.input)
    return FileInput(options.input, format_of(options.input, options.format))


def resumable_job(found: Found, options: argparse.Namespace, *, ordered: bool) -> Job:
    """A run that a later process can go on with."""
    flow = found.flow
    if options.checkpoint is None:
        raise FlowError("--restart is for runs with --checkpoint")
    if options.input in (None, "-"):
        raise FlowError("a run can go on only with an input that can be read again; name a file: --input FILE")
    if options.output in (None, "-"):
        raise FlowError("a run finds out from its output what is done; name a file: --output FILE")
    check_input(options.input)
    check_apart(options.input, options.output, options.checkpoint)
    check_steps(flow)
    format = format_of(options.input, options.format)
    made_of = {
        "flow": f"{flow.name} with the digest {found.digest}",
        "input": facts_of(options.input),
        "format": str(format),
        "output": os.path.realpath(options.output),
        "order of results": "input" if ordered else "completion",
        "store of dead letters": flow.store if isinstance(flow.store, str) else "none" if flow.store is None else "own",
    }
    journal, output = open_resumable(
        options.checkpoint, options.output, made_of, ordered=ordered, restart=options.restart
    )
    return Job(
        flow=flow,
        output=output,
        resumable=Resumable(
            journal=journal,
            path=options.checkpoint,
            every=options.checkpoint_every,
            output=output,
            make_source=partial(FileInput, options.input, format),
        ),
        ordered=ordered,
        progress=shows_progress(options),
        quiet=options.quiet,
    )


def check_input(path: str) -> None:
    """Raise for a file that is none, before anything is begun."""
    if not os.path.exists(path):
        raise FlowError(f"there is no file {path}")
    if size_of(path) is None:
        raise FlowError(f"{path} is no regular file; leave --input out: … < {path}")


def check_apart(*paths: str) -> None:
    """Raise when two of the files are the same."""
    places = [os.path.realpath(path) for path in paths]
    if len(set(places)) < len(places):
        raise FlowError(f"the input, the output and the checkpoint are three files, got {', '.join(paths)}")


def check_steps(flow: Flow[object]) -> None:
    """Raise for steps that cannot go on where another process was killed."""
    kinds = [step.kind for step in walk(flow.steps)]
    for step in walk(flow.steps):
        if step.kind == "through":
            raise FlowError(
                f"step {step.name} of flow {flow.name} keeps in memory what passed, which no checkpoint holds; "
                "run it without --checkpoint"
            )
    if kinds.count("flat_map") > 1:
        raise FlowError(
            f"flow {flow.name} makes parts in more than one step, and its lines do not tell parts of parts apart; "
            "run it without --checkpoint"
        )


def writes_to_stdout(flow: Flow[object]) -> bool:
    """Whether a step delivers to standard output."""
    return any(
        isinstance(outlet, StandardOutput) for step in walk(flow.steps) for outlet in step.options.get("outlets", ())
    )


def shows_progress(options: argparse.Namespace) -> bool:
    """On a terminal, unless the results are shown on it themselves."""
    return not options.quiet and sys.stderr.isatty() and not (options.output is None and sys.stdout.isatty())


def named(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none"


def tell_complete(job: Job, resumable: Resumable, end: End) -> int:
    """A run that is complete needs no other; returns the exit code that it had."""
    asyncio.run(save(resumable.path, resumable.output, resumable.journal.checkpoint(resumable.output.offset, 0)))
    if not job.quiet:
        job.messages.write(f"{summary_line(job.flow.name, end)}\n  it was complete; nothing was left to do\n")
    return 1 if end.failed else 0


def complain(sentence: str, code: int) -> int:
    """Say on standard error what is wrong; returns the exit code for it."""
    sys.stderr.write(f"penstock run: {sentence}\n")
    return code
