"""Log events with keys, as JSON lines or in colours on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, BinaryIO, TextIO, cast

import structlog

from penstock.support.json_encoding import encode_json
from penstock.support.logger import quiet_libraries
from penstock.support.terminal import console_lines
from penstock.support.text import bytes_for_terminal, sanitize

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LogFile:
    """The destination of log lines. Lines that cannot be written are counted, because logging must not break a run.

    Writes fail when the disk is full or the reader of a pipe has exited.
    """

    def __init__(self, stream: TextIO) -> None:
        binary = stream.buffer
        # Unbuffered: a buffer would keep the data of a failed write, and block later ones.
        self._file = cast("BinaryIO", getattr(binary, "raw", binary))
        self.lost = 0
        """The number of lines lost so far."""

    def write(self, line: bytes) -> None:
        """Write one line, or count it as lost."""
        try:
            if self._file.write(line) != len(line):
                self.lost += 1
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.lost += 1

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def configure_logging(
    form: str = "auto", level: str = "info", stream: TextIO | None = None, *, process: int = 0
) -> LogFile:
    """Write logs to standard error: as `json`, for the `console`, or `auto`: console on a terminal, else JSON.

    `process` is the number of one of several processes, which its lines then carry; 0: there is only one.
    Returns the log file, which counts the lines that could not be written.
    """
    out = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and out.isatty())
    file = LogFile(out)
    as_lines: list[Any] = (
        [*console_lines(out), _to_bytes]
        if console
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(_to_json_for_terminal if out.isatty() else _to_json),
        ]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([_NumberAdder(process)] if process else []),
            *as_lines,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", file)),
        cache_logger_on_first_use=True,
    )
    _route_stdlib_logging(LEVELS[level])
    return file


class _NumberAdder:
    """Adds the number of the process to events."""

    def __init__(self, process: int) -> None:
        self._process = process

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", self._process)
        return event


def _to_bytes(_logger: Any, _method: str, text: str) -> bytes:
    return sanitize(text).encode()


def _to_json(event: dict[str, Any], **_: Any) -> bytes:
    return encode_json(event)


def _to_json_for_terminal(event: dict[str, Any], **_: Any) -> bytes:
    return bytes_for_terminal(_to_json(event))


class _Forward(logging.Handler):
    """Forwards log records of other libraries as events."""

    def emit(self, record: logging.LogRecord) -> None:
        exception = record.exc_info if record.exc_info and record.exc_info[1] else None
        structlog.get_logger().log(
            record.levelno,
            "library.log",
            library=record.name,
            message=_message(record),
            exc_info=exception,
        )


def _message(record: logging.LogRecord) -> str:
    """Format the message of a record; its parts if they do not fit together, because logging must not raise."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!r} {record.args!r}"


def _route_stdlib_logging(level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(max(level, logging.WARNING))
    quiet_libraries()
