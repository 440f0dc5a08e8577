"""What a command says when it cannot do what it was asked to."""

from __future__ import annotations

import sys


def complain(command: str, sentence: object, code: int = 1) -> int:
    """Say on standard error what is wrong, each line after the command's name; returns the exit code for it."""
    sys.stderr.writelines(f"penstock {command}: {_printable(line)}\n" for line in str(sentence).splitlines())
    return code


def _printable(line: str) -> str:
    """A line that cannot control a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
