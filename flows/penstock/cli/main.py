"""The command `penstock`: a group that imports the module of a command when the command is used."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import click

from penstock.cli.lazy_group import LazyCommand, LazyGroup
from penstock.cli.options import print_error
from penstock.support.terminal import command_streams

PLUGINS = "penstock.commands"
"""The group of entry points by which other packages add commands. Each is a `click.Command`."""

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


COMMANDS = {
    "serve": LazyCommand("Serve flows over HTTP, with background workers and metrics."),
    "work": LazyCommand("Run the workers of flows, and serve only metrics and health."),
    "run": LazyCommand("Run a flow once over a file, a pipe or samples.", "penstock.cli.run.command"),
    "new": LazyCommand("Create a flow file to start from.", "penstock.cli.new"),
    "check": LazyCommand("Validate flow files.", "penstock.cli.check"),
    "test": LazyCommand("Run the tests of flow files in virtual time.", "penstock.cli.test"),
    "graph": LazyCommand("Draw a flow as a graph.", "penstock.cli.graph"),
    "schema": LazyCommand("Print the JSON Schema of flow files, for editors.", "penstock.cli.schema"),
    "dead-letters": LazyCommand("List, redrive, edit and delete dead letters.", "penstock.cli.dead_letters"),
    "simulate": LazyCommand("Serve simulated pricing and inventory services over HTTP."),
    "completion": LazyCommand("Print a completion script for bash, zsh or fish.", "penstock.cli.completion"),
}


class CommandGroup(LazyGroup):
    """The commands in `COMMANDS` and those of plug-ins, each imported when it is used.

    Only those in `COMMANDS` are listed and completed: reading the names of all entry points is slow.
    """

    table = COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, also one of a plug-in. Returns None for a name that is unknown."""
        return super().get_command(ctx, cmd_name) or _load_plugin(cmd_name)

    def known_names(self) -> set[str]:
        """Return the names of all commands, also those of plug-ins."""
        return {*COMMANDS, *_plugin_names()}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments. `penstock help COMMAND` is `penstock COMMAND --help`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="penstock COMMAND --help shows the options of a command.",
)
@click.version_option(None, "-V", "--version", package_name="penstock", message="penstock %(version)s")
def cli() -> None:
    """Run reactive dataflows with backpressure and durable dead letters."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns its exit code: 0 all well, 1 something failed or a stop was forced, 2 wrong usage."""
    output_closed = getattr(sys, "stdout", None) is None
    _reserve_std_descriptors()
    if output_closed:
        sys.stdout = os.fdopen(1, "w")
    if getattr(sys, "stderr", None) is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    with command_streams():
        code = _run(sys.argv[1:] if arguments is None else arguments, output_closed=output_closed)
    if arguments is None and "obstore" in sys.modules:
        _exit_now(code)
    return code


def _run(arguments: list[str], *, output_closed: bool) -> int:
    """Run a command. Returns its exit code, also when its output cannot be written."""
    try:
        code = cli.main(arguments, prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except click.Abort:  # SIGINT
        return 1
    except BrokenPipeError:  # the reader of the output has ended, as in `| head`; click handles it inside a command
        _discard_output()
        return 1
    except OSError as error:
        name = arguments[0] if arguments else "--help"
        if not _has_working_directory():
            return print_error(name, "the working directory was deleted; change to another one")
        unwritable = error.errno in OUT_OF_SPACE or (output_closed and error.errno == errno.EBADF)
        if not unwritable or error.filename is not None:
            raise
        _discard_output()
        return print_error(name, f"the output cannot be written: {error.strerror}")
    return int(code or 0)


def _exit_now(code: int) -> None:
    """End the process without finalizing the interpreter. Then the threads of the S3 client sometimes abort it."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _load_plugin(name: str) -> click.Command | None:
    """Import a command that an entry point names. Return None if no entry point has the name."""
    from importlib.metadata import entry_points  # imported late: it takes longer than all of `penstock --help`

    for point in entry_points(group=PLUGINS, name=name):
        command = point.load()
        if not isinstance(command, click.Command):
            raise click.ClickException(f"the command {name!r} of {point.value} is not a click.Command")
        return command
    return None


def _plugin_names() -> Iterator[str]:
    """Yield the names of all entry points for commands."""
    from importlib.metadata import entry_points

    return (point.name for point in entry_points(group=PLUGINS))


def _has_working_directory() -> bool:
    """Return whether the working directory exists. Another process may have deleted it."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _reserve_std_descriptors() -> None:
    """Open the null device for standard streams that are closed (`>&-`); else the next opened files get their numbers.

    It is opened for the other direction, so that using the stream fails.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # `open` returns the lowest free descriptor, which is this one
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)


def _discard_output() -> None:
    """Redirect standard output to the null device: Python would fail to flush it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
