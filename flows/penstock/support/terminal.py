"""Write to terminals and standard streams: log lines to read, messages, and data."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from penstock.support.text import for_terminal, printable, sanitize

if TYPE_CHECKING:  # structlog is imported late: `--help` does not need it
    from structlog.typing import EventDict, ExcInfo, Processor


def console_lines(out: TextIO) -> list[Processor]:
    """Return the processors that render log lines for a console, in colours on a terminal.

    Tracebacks are plain: where rich is installed, structlog's own show the values of all variables, which may be secret
    and fill the screen.
    """
    from structlog.dev import ConsoleRenderer

    return [_printable_values, ConsoleRenderer(colors=out.isatty(), exception_formatter=_traceback)]


def _printable_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _traceback(out: TextIO, error: ExcInfo) -> None:
    from structlog.dev import plain_traceback

    text = io.StringIO()
    plain_traceback(text, error)
    out.write("\n".join(map(printable, text.getvalue().split("\n"))))


class MessageStream:
    """A text stream that drops text which cannot be written, instead of raising `OSError`.

    It is for messages: on a full disk, or when their reader has exited, the command continues and keeps its exit code.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        with suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered, or leave it."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def command_streams() -> Generator[None]:
    """Standard streams for a command: no character and no full disk makes writing a message raise.

    Characters that the encoding of standard output does not have are written as escapes (standard error of Python
    does so by itself).
    """
    messages, output = sys.stderr, sys.stdout
    errors = output.errors
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="backslashreplace")
    sys.stderr = cast("TextIO", MessageStream(messages))
    try:
        yield
    finally:
        sys.stderr = messages
        if isinstance(output, io.TextIOWrapper) and errors is not None:
            with suppress(OSError, ValueError):  # it flushes
                output.reconfigure(errors=errors)
        _drop_unwritten(messages)


def write_text(text: str) -> None:
    """Write text to standard output, in its encoding; escape unprintable characters on a terminal."""
    sys.stdout.write(for_terminal(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()  # an error of writing is raised here, not while Python ends


def write_data(data: str | bytes) -> None:
    """Write JSON, a script or a graph to standard output: text is always encoded in UTF-8, whatever the locale is."""
    if isinstance(data, str):
        text = for_terminal(data) if sys.stdout.isatty() else data
        data = sanitize(text).encode()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _drop_unwritten(stream: TextIO) -> None:
    """Drop messages that are still buffered and cannot be written: Python would end with exit code 120 for them."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
