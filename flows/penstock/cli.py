"""The command line: `penstock COMMAND …`."""

from __future__ import annotations

import errno
import os
import sys

from penstock.commands import COMMANDS, find_command
from penstock.complaints import complain

USAGE = f"""\
usage: penstock COMMAND …

commands:
{"".join(f"  {name:<15} {command.about}{chr(10)}" for name, command in COMMANDS.items())}
penstock COMMAND --help tells more; penstock --version tells the version.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 all well, 1 something failed or a stop was forced, 2 wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    if getattr(sys, "stderr", None) is None:  # it was closed (`2>&-`); a file opened next would take its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version  # late, as all that `--help` does not need

        sys.stdout.write(f"penstock {version('penstock')}\n")
        return 0
    command = find_command(words[0])
    if command is None:
        sys.stderr.write(f"penstock: there is no command {words[0]!r}\n\n{USAGE}")
        return 2
    try:
        return command(words[1:])
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # The reader of our output has gone (`| head`).
        _leave_output()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or error.filename is not None:
            raise
        _leave_output()
        return complain(words[0], f"the output cannot be written: {error.strerror}")


def _leave_output() -> None:
    """Let what is left to be written go nowhere, or Python complains of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
