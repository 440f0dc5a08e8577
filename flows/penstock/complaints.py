"""What a command says when it cannot do what it was asked to."""

from __future__ import annotations

import sys

from penstock.support.text import printable


def complain(command: str, sentence: object, code: int = 1) -> int:
    """Say on standard error what is wrong, each line after the command's name; returns the exit code for it."""
    sys.stderr.writelines(f"penstock {command}: {printable(line)}\n" for line in str(sentence).splitlines())
    return code
