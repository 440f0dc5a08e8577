"""What is said to people at a terminal: log lines, and texts of others that must not be commands to it."""

from __future__ import annotations

import io
import json
import re
from typing import Any, TextIO

from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.typing import EventDict, ExcInfo, Processor

_UNPRINTABLE = re.compile(r"\r(?!\n)|[^\r\n\t -~]")
"""Characters that may be unprintable. A carriage return alone would let a text overwrite its line."""


def console_lines(out: TextIO) -> list[Processor]:
    """The processors that make a log line for people, in colours on a terminal.

    Tracebacks are plain: where rich is installed, structlog's own show the values of all variables, which may be secret
    and fill the screen.
    """
    return [_printable_values, ConsoleRenderer(colors=out.isatty(), exception_formatter=_traceback)]


def printable(text: str) -> str:
    """A text on one line that can do nothing to a terminal: what cannot be printed becomes an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def for_terminal(text: str) -> str:
    """A text of several lines that cannot control a terminal: other characters that cannot be printed become escapes.

    The escapes are those of JSON, so that a JSON document stays one with the same values.

    >>> for_terminal('{"name": "\\u202etxt.exe"}')
    '{"name": "\\\\u202etxt.exe"}'
    """
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(_escaped, text)


def bytes_for_terminal(data: bytes) -> bytes:
    """The same for complete lines in UTF-8."""
    return for_terminal(data.decode(errors="backslashreplace")).encode()


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _printable_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _traceback(out: TextIO, error: ExcInfo) -> None:
    told = io.StringIO()
    plain_traceback(told, error)
    out.write("\n".join(map(printable, told.getvalue().split("\n"))))
