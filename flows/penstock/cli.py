"""The command line: `penstock COMMAND …`."""

from __future__ import annotations

import errno
import os
import sys

from penstock.commands import COMMANDS, find_command
from penstock.complaints import complain
from penstock.support.terminal import command_streams

USAGE = f"""\
usage: penstock COMMAND …

commands:
{"".join(f"  {name:<15} {command.about}{chr(10)}" for name, command in COMMANDS.items())}
penstock COMMAND --help tells more; penstock --version tells the version.
"""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of writing that tell of no room."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 all well, 1 something failed or a stop was forced, 2 wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    closed = getattr(sys, "stdout", None) is None
    _take_places()
    if closed:
        sys.stdout = os.fdopen(1, "w")
    if getattr(sys, "stderr", None) is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
    with command_streams():
        return _run_safely(words, output_closed=closed)


def _run_safely(words: list[str], *, output_closed: bool) -> int:
    """Run a command; returns its exit code, also when its output cannot be written."""
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # The reader of our output has gone (`| head`).
        _leave_output()
        return 1
    except OSError as error:
        if not _has_working_directory():
            return complain(words[0], "the working directory does not exist any more; change to another one")
        unwritable = error.errno in FULL or (output_closed and error.errno == errno.EBADF)
        if not unwritable or error.filename is not None:
            raise
        _leave_output()
        return complain(words[0] if words else "--help", f"the output cannot be written: {error.strerror}")


def _has_working_directory() -> bool:
    """Whether the directory that relative paths begin at is there; it may have been deleted."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _take_places() -> None:
    """Take the places of streams that were closed (`>&-`), or the next files that are opened do; their use fails."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is the lowest that is free, which `open` gives
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _print(USAGE, 0 if words else 2)
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version  # late, as all that `--help` does not need

        return _print(f"penstock {version('penstock')}\n", 0)
    command = find_command(words[0])
    if command is None:
        sys.stderr.write(f"penstock: there is no command {words[0]!r}\n\n{USAGE}")
        return 2
    try:
        return command(words[1:])
    except SystemExit:
        sys.stdout.flush()  # help that cannot be written is told as all output is, not by Python's end
        raise


def _print(text: str, code: int) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return code


def _leave_output() -> None:
    """Let what is left to be written go nowhere, or Python complains of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
