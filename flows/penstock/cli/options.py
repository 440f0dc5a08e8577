"""What all commands share: parameter types, exit codes and error output."""

from __future__ import annotations

import sys
from typing import Any

import click

MAX_DIGITS = 4300
"""Digits of a number that `int` converts by default; more take quadratic time."""


class Command(click.Command):
    """A command whose function returns the exit code of the process."""

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function and exit with the code that it returns."""
        ctx.exit(super().invoke(ctx))


def positive(value: Any) -> int:
    """Convert an option to an integer >= 1."""
    return _integer(value, 1)


def not_negative(value: Any) -> int:
    """Convert an option to an integer >= 0."""
    return _integer(value, 0)


def _integer(value: Any, min: int) -> int:
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) >= min:
        return int(text)
    raise click.BadParameter(f"expected an integer >= {min}, got {text!r}")


def seconds(value: Any) -> float:
    """Convert an option to a positive, finite number of seconds."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise click.BadParameter(f"expected a number of seconds > 0, got {value!r}")
    return number


FILE = click.Path(readable=False, path_type=str)
"""The name of a file or directory, completed by shells. The command checks it, so that the message says what to do.

A text, because `penstock --help` imports this module, and importing `pathlib` would take 5 ms.
"""


def usage_error(message: object) -> click.UsageError:
    """Make an error for arguments that are wrong together or that only the command can check. Exit code 2."""
    return click.UsageError(str(message), click.get_current_context(silent=True))


def print_error(command: str, message: object, exit_code: int = 1) -> int:
    """Print a message on standard error, each line after the name of the command. Returns the exit code."""
    sys.stderr.writelines(f"penstock {command}: {_printable(line)}\n" for line in str(message).splitlines())
    return exit_code


def _printable(line: str) -> str:
    """Escape characters that could control a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
