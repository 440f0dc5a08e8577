"""What `penstock run` is asked for by its flags, as a job; what cannot be meant is refused before anything begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.checkpoints.resume import open_resumable
from penstock.cli.run.execute import Job, Resumable
from penstock.cli.run.file_conflicts import FileRole, appended_files, check_not_written, files_of, files_read
from penstock.cli.run.find_flow import LoadedFlow
from penstock.cli.run.inputs import FileInput, PipeInput, file_identity, size_of, stdin_fraction
from penstock.cli.run.outputs import is_stdout, open_output, open_stdout
from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.formats.format import Format, format_of
from penstock.sinks import StdoutSink
from penstock.sources import Source, generate
from penstock.sources.byte_stream import StdinSource
from penstock.steps import walk


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The arguments of `penstock run`. None: the option was not given."""

    flow: str
    input: str | None
    worker: str | None
    samples: int | None
    format: str | None
    output: str | None
    checkpoint: str | None
    checkpoint_every: float
    restart: bool
    order: str | None
    window: int | None
    dead_letters: str | None
    quiet: bool
    log_level: str
    log_format: str


def with_overrides(flow: Flow[Any], options: RunOptions) -> Flow[Any]:
    """The flow, with what the flags say instead."""
    if options.window is not None:
        flow = flow.window(options.window)
    if options.dead_letters is not None:
        flow = flow.dead_letters(options.dead_letters, redact=flow.redacted)
    return flow


def job_from_options(found: LoadedFlow, options: RunOptions) -> Job:
    """What is to be run. Raises `PenstockError`, `OSError` and `ValueError` for what cannot be meant."""
    flow = found.flow
    ordered = flow.ordered if options.order is None else options.order == "input"
    if writes_to_stdout(flow) and is_stdout(options.output):
        raise FlowDefinitionError(
            "this flow writes to standard output itself; give its results a place of their own: --output"
        )
    if options.checkpoint is not None or options.restart:
        return resumable_job(found, options, ordered=ordered)

    source = make_source(flow, options)
    check_open(source)
    read = [*files_of(found.files), *files_read(source)]
    check_files(flow, options.output, read)
    if isinstance(source, PipeInput) and os.isatty(source.descriptor) and not options.quiet:
        sys.stderr.write("penstock run: items are read from the terminal, a line each; Ctrl-D ends them\n")
    output = open_stdout() if options.output in (None, "-") else open_output(options.output)
    return Job(
        flow=flow,
        source=source,
        output=output,
        ordered=ordered,
        share=stdin_fraction() if isinstance(source, PipeInput) else None,
        progress=shows_progress(options),
        quiet=options.quiet,
    )


def make_source(flow: Flow[Any], options: RunOptions) -> Source[Any]:
    """Where the items come from."""
    if options.format is not None and (options.worker or options.samples):
        raise FlowDefinitionError("--format is for --input and standard input")
    if options.worker is not None:
        workers = {worker.name: worker for worker in flow.workers}
        if options.worker not in workers:
            raise FlowDefinitionError(
                f"flow {flow.name} has no worker {options.worker!r} (workers: {join_names(workers)})"
            )
        return workers[options.worker].source
    if options.samples is not None:
        if flow.sample_factory is None:
            raise FlowDefinitionError(
                f"flow {flow.name} has no samples; say with samples: in its file, or .samples(…) in Python, "
                "what they are, or use --input"
            )
        return generate(options.samples, flow.sample_factory)
    if options.input in (None, "-"):
        return PipeInput(Format(options.format or Format.NDJSON))
    check_input(options.input)
    return FileInput(options.input, input_format(options.input, options.format))


def resumable_job(found: LoadedFlow, options: RunOptions, *, ordered: bool) -> Job:
    """A run that a later process can go on with."""
    flow = found.flow
    if options.checkpoint is None:
        raise FlowDefinitionError("--restart is for runs with --checkpoint")
    if options.input in (None, "-"):
        raise FlowDefinitionError(
            "a run can go on only with an input that can be read again; name a file: --input FILE"
        )
    if options.output in (None, "-"):
        raise FlowDefinitionError("a run finds out from its output what is done; name a file: --output FILE")
    check_input(options.input)
    check_different(options.input, options.output, options.checkpoint)
    read = [*files_of(found.files), FileRole("the input", options.input)]
    check_files(flow, options.output, read)
    check_not_written(f"the checkpoint {options.checkpoint}", options.checkpoint, [*read, *appended_files(flow)])
    check_steps(flow)
    format = input_format(options.input, options.format)
    made_of = {
        "flow": f"{flow.name} with the digest {found.digest}",
        "input": file_identity(options.input),
        "format": str(format),
        "output": os.path.realpath(options.output),
        "order of results": "input" if ordered else "completion",
        "store of dead letters": flow.dead_letter_url or "none",
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
        raise FlowDefinitionError(f"there is no file {path}")
    if os.path.isdir(path):
        raise FlowDefinitionError(
            f"{path} is a directory; name a file in it, or a worker whose source it is: --worker NAME"
        )
    if size_of(path) is None:
        raise FlowDefinitionError(f"{path} is no regular file; leave --input out: … < {path}")


def input_format(path: str, format: str | None) -> Format:
    """The format of the input file. Raises `FlowDefinitionError` when neither its name nor the flag tells it."""
    try:
        return format_of(path, format)
    except FlowDefinitionError as error:
        raise FlowDefinitionError(f"{error} (--format ndjson, --format csv)") from error


def check_open(source: Source[Any]) -> None:
    """Raise when standard input is to be read and was closed, as by a shell's `<&-`."""
    if not isinstance(source, PipeInput | StdinSource):
        return
    try:
        os.read(source.descriptor, 0)
    except OSError as error:
        raise FlowDefinitionError(
            f"standard input cannot be read: {error.strerror}; name a file: --input FILE"
        ) from error


def check_files(flow: Flow[Any], output: str | None, read: Sequence[FileRole]) -> None:
    """Raise when the results would go into a file that is read or added to, or a step adds to one that is read."""
    added_to = list(appended_files(flow))
    if output in (None, "-"):
        check_not_written("standard output", 1, [*read, *added_to], way="name another file: --output FILE")
    else:
        check_not_written(f"the output {output}", output, [*read, *added_to])
    for role, path in added_to:
        check_not_written(role, path, read)


def check_different(*paths: str) -> None:
    """Raise when two of the files are the same."""
    places = [os.path.realpath(path) for path in paths]
    if len(set(places)) < len(places):
        raise FlowDefinitionError(f"the input, the output and the checkpoint are three files, got {', '.join(paths)}")


def check_steps(flow: Flow[Any]) -> None:
    """Raise for steps with which another process cannot continue a run."""
    makers = 0
    for step in walk(flow.steps):
        if not step.is_resumable:
            raise FlowDefinitionError(
                f"step {step.name} of flow {flow.name} keeps earlier values in memory, which a checkpoint does not "
                "contain; run without --checkpoint"
            )
        makers += step.makes_parts
    if makers > 1:
        raise FlowDefinitionError(
            f"flow {flow.name} makes parts in more than one step, and a checkpoint cannot identify parts of parts; "
            "run without --checkpoint"
        )


def writes_to_stdout(flow: Flow[Any]) -> bool:
    """Whether a step delivers to standard output."""
    return any(isinstance(sink, StdoutSink) for step in walk(flow.steps) for sink in step.sinks.values())


def shows_progress(options: RunOptions) -> bool:
    """On a terminal, unless the results are shown on it themselves."""
    shown = is_stdout(options.output) and os.isatty(1)
    return not options.quiet and sys.stderr.isatty() and not shown


def join_names(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none"
