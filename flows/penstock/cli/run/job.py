"""Make a job from the options of `penstock run`. Invalid combinations are rejected before anything starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.checkpoints.resume import open_resumable
from penstock.cli.run.execute import Job, Resumable
from penstock.cli.run.inputs import FileInput, PipeInput, input_fingerprint, size_of
from penstock.cli.run.outputs import (
    appended_files,
    check_not_written,
    flow_files,
    is_stdout,
    open_output,
    open_stdout,
    writes_to_stdout,
)
from penstock.deadletters.store import SQLITE
from penstock.deadletters.stores import normalize_url
from penstock.errors import FlowDefinitionError, StoreError
from penstock.flow.flow import Flow
from penstock.flowfile.find_flow import LoadedFlow
from penstock.formats.format import Format, format_of
from penstock.runtime.order import Order, check_key
from penstock.sources import Source, generate
from penstock.steps import walk
from penstock.support.used_files import UsedFile


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
    event_loop: str


def with_overrides(flow: Flow[Any], options: RunOptions) -> Flow[Any]:
    """Apply the options that override settings of the flow."""
    if options.window is not None:
        flow = flow.window(options.window)
    if options.dead_letters is not None:
        flow = flow.dead_letters(options.dead_letters, redact=flow.redacted)
    return flow


def job_from_options(found: LoadedFlow, options: RunOptions) -> Job:
    """Make the job. Raises `PenstockError`, `OSError` or `ValueError` for invalid options."""
    flow = found.flow
    order = flow.ordering if options.order is None else Order(options.order)
    check_key(flow.name, order, flow.key)
    if writes_to_stdout(flow) and is_stdout(options.output):
        raise FlowDefinitionError("this flow writes to standard output itself; write its results to a file: --output")
    if options.checkpoint is not None or options.restart:
        return resumable_job(found, options, order)

    source = make_source(flow, options)
    inputs = list(source.used_files())
    check_open(inputs)
    check_files(flow, options.output, [*flow_files(found.files), *inputs])
    if options.worker is None and reads_terminal(inputs) and not options.quiet:
        sys.stderr.write("penstock run: reading items from the terminal, one per line; Ctrl-D ends the input\n")
    output = open_stdout() if options.output in (None, "-") else open_output(options.output)
    return Job(
        flow=flow,
        source=source,
        output=output,
        order=order,
        progress=shows_progress(options),
        quiet=options.quiet,
    )


def make_source(flow: Flow[Any], options: RunOptions) -> Source[Any]:
    """Make the source of the run."""
    if options.format is not None and (options.worker or options.samples):
        raise FlowDefinitionError("--format: expected only with --input or standard input")
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
                f"flow {flow.name} has no samples; define them with samples: in its file, or .samples(…) in Python, "
                "or use --input"
            )
        return generate(options.samples, flow.sample_factory)
    if options.input in (None, "-"):
        return PipeInput(Format(options.format or Format.NDJSON))
    check_input(options.input)
    return FileInput(options.input, input_format(options.input, options.format))


def resumable_job(found: LoadedFlow, options: RunOptions, order: Order) -> Job:
    """Make a job that a later process can resume."""
    flow = found.flow
    if options.checkpoint is None:
        raise FlowDefinitionError("--restart: expected only with --checkpoint")
    if (other := "--worker" if options.worker else "--samples" if options.samples else None) is not None:
        raise FlowDefinitionError(f"--checkpoint needs --input FILE instead of {other}")
    if options.input in (None, "-"):
        raise FlowDefinitionError("--checkpoint needs an input that can be read again; name a file: --input FILE")
    if options.output in (None, "-"):
        raise FlowDefinitionError("--checkpoint needs an output that can be read again; name a file: --output FILE")
    check_input(options.input)
    check_different(options.input, options.output, options.checkpoint)
    read = [*flow_files(found.files), UsedFile("the input", options.input)]
    check_files(flow, options.output, read)
    check_not_written(f"the checkpoint {options.checkpoint}", options.checkpoint, [*read, *appended_files(flow)])
    check_steps(flow)
    format = input_format(options.input, options.format)
    inputs = {
        "flow": f"{flow.name} with the digest {found.digest}",
        "input": input_fingerprint(options.input),
        "format": str(format),
        "output": os.path.realpath(options.output),
        "order of results": str(order),
        "store of dead letters": flow.dead_letter_url or "none",
    }
    journal, output = open_resumable(
        options.checkpoint, options.output, inputs, ordered=order is Order.INPUT, restart=options.restart
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
        order=order,
        progress=shows_progress(options),
        quiet=options.quiet,
    )


def check_input(path: str) -> None:
    """Raise `FlowDefinitionError` unless the input is a regular file."""
    if not os.path.exists(path):
        raise FlowDefinitionError(f"the file {path} does not exist")
    if os.path.isdir(path):
        raise FlowDefinitionError(
            f"{path} is a directory; name a file in it, or a worker whose source it is: --worker NAME"
        )
    if size_of(path) is None:
        raise FlowDefinitionError(f"{path} is not a regular file; remove --input and use: … < {path}")


def input_format(path: str, format: str | None) -> Format:
    """Return the format of the input file. Raises `FlowDefinitionError` if neither its name nor the option tells it."""
    try:
        return format_of(path, format)
    except FlowDefinitionError as error:
        raise FlowDefinitionError(f"{error}; use --format ndjson or --format csv") from error


def check_open(inputs: Iterable[UsedFile]) -> None:
    """Raise `FlowDefinitionError` if standard input is to be read and was closed, as by a shell's `<&-`."""
    for used in inputs:
        if isinstance(used.file, int):
            try:
                os.read(used.file, 0)
            except OSError as error:
                raise FlowDefinitionError(
                    f"{used.description} cannot be read: {error.strerror}; name a file: --input FILE"
                ) from error


def reads_terminal(inputs: Iterable[UsedFile]) -> bool:
    """Return whether a terminal is read."""
    return any(isinstance(used.file, int) and os.isatty(used.file) for used in inputs)


def check_files(flow: Flow[Any], output: str | None, read: Sequence[UsedFile]) -> None:
    """Raise `FlowDefinitionError` if an output is also read or appended to, or a sink is also read."""
    appended = list(appended_files(flow))
    if output in (None, "-"):
        check_not_written("standard output", 1, [*read, *appended], advice="name another file: --output FILE")
    else:
        check_not_written(f"the output {output}", output, [*read, *appended])
    for description, path in appended:
        check_not_written(description, path, read)


def check_store_folder(flow: Flow[Any]) -> None:
    """Raise `StoreError` if the folder for the file of dead letters does not exist."""
    url = flow.dead_letter_url
    if url is None or not (path := normalize_url(url)).startswith(SQLITE):
        return
    if not os.path.isdir(os.path.dirname(os.path.abspath(path.removeprefix(SQLITE)))):
        folder = os.path.dirname(url.removeprefix(SQLITE)) or "for it"  # with the variables, whose values may be secret
        raise StoreError(f"dead-letter store {url}: there is no folder {folder}; create it, or name another file")


def check_different(*paths: str) -> None:
    """Raise `FlowDefinitionError` if two of the files are the same."""
    resolved = [os.path.realpath(path) for path in paths]
    if len(set(resolved)) < len(resolved):
        raise FlowDefinitionError(
            f"input, output and checkpoint: expected three different files, got {', '.join(paths)}"
        )


def check_steps(flow: Flow[Any]) -> None:
    """Raise `FlowDefinitionError` for steps that cannot be resumed."""
    makers = 0
    for step in walk(flow.steps):
        if not step.is_resumable:
            raise FlowDefinitionError(
                f"step {step.name} of flow {flow.name} keeps state in memory, which a checkpoint does not contain; "
                "run it without --checkpoint"
            )
        makers += step.makes_parts
    if makers > 1:
        raise FlowDefinitionError(
            f"flow {flow.name} makes parts in more than one step, and result lines do not identify parts of parts; "
            "run it without --checkpoint"
        )


def shows_progress(options: RunOptions) -> bool:
    """Return whether to show progress: on a terminal, unless results are shown on it."""
    shown = is_stdout(options.output) and os.isatty(1)
    return not options.quiet and sys.stderr.isatty() and not shown


def join_names(names: Iterable[str]) -> str:
    """Join names with commas; `none` if there are none."""
    return ", ".join(names) or "none"
