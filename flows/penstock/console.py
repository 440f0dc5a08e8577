"""Log lines for people at a terminal."""

from __future__ import annotations

from typing import TextIO

from structlog.dev import ConsoleRenderer, plain_traceback


def console_renderer(out: TextIO) -> ConsoleRenderer:
    """Lines with plain tracebacks, in colours on a terminal.

    Where rich is installed, structlog's own tracebacks show the values of all variables, which may be secret and fill
    the screen.
    """
    return ConsoleRenderer(colors=out.isatty(), exception_formatter=plain_traceback)
