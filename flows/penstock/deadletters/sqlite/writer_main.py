"""The subprocess that writes letters, and its messages: `python -m penstock.deadletters.sqlite.writer_main URL`.

`writer_process` starts it and communicates over its standard input, a socket. A frame is a length of four bytes, then a
message in msgpack. The URL argument is there for lists of processes.

This module is separate from `writer_process` because the start of the subprocess delays the first dead letter: with the
imports of its parent (structlog, subprocess) it takes twice as long.
"""

from __future__ import annotations

import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn

from msgspec import Struct, msgpack

from penstock.deadletters.sql.rows import Columns
from penstock.deadletters.sqlite.writer import Writer, WriterConfig, WriterStatistics
from penstock.errors import (
    StoreError,
    StoreFileReplaced,
    StoreMissing,
    StoreReplaced,
    StoreTooNew,
    StoreTruncated,
    WriterCrashed,
    WriterStartFailed,
    describe,
)

HEADER = 4
"""Bytes of the length of a message, in little-endian order."""


class OpenMessage(Struct):
    """The first message: the database to open, and the counters to continue from."""

    config: WriterConfig
    statistics: WriterStatistics
    recount: bool


class AddMessage(Struct):
    """A group of letters to store. As many messages follow as there are batches: the columns of one caller each."""

    batches: int
    refresh: bool
    copies: tuple[str, ...]


class ErrorMessage(Struct):
    """An error: its class, its text or else its arguments, and SQLite's name for it."""

    kind: str
    text: str
    arguments: dict[str, Any]
    code: str


class AddReply(Struct, tag=True):
    """A group was processed: the result for each caller, and the current counters. Also sent after opening."""

    errors: list[ErrorMessage | None]
    statistics: WriterStatistics


class FatalMessage(Struct, tag=True):
    """The database could not be opened or closed. This is the last message."""

    error: ErrorMessage


_ERRORS: dict[str, Callable[..., Exception]] = {
    kind.__name__: kind
    for kind in (
        StoreMissing,
        StoreFileReplaced,
        StoreReplaced,
        StoreTooNew,
        StoreTruncated,
        WriterCrashed,
        WriterStartFailed,
        sqlite3.OperationalError,
        sqlite3.IntegrityError,
        sqlite3.DataError,
        sqlite3.InternalError,
        sqlite3.NotSupportedError,
        sqlite3.ProgrammingError,
        sqlite3.DatabaseError,
        sqlite3.InterfaceError,
        OSError,
        OverflowError,
        UnicodeError,
        Exception,
    )
}
"""The errors that are restored with their class. Any other error becomes the nearest base class among these."""


def _encode_str_subclass(value: object) -> str:
    # msgspec does not encode subclasses of str.
    if isinstance(value, str):
        return "".join([value])
    raise TypeError(f"{type(value).__name__} cannot be stored")


_encode = msgpack.Encoder(enc_hook=_encode_str_subclass).encode


def encode_frame(message: Any) -> bytes:
    """Encode a message as a frame. Raises errors of the encoder, and `OverflowError` for a message of 4 GiB."""
    body = _encode(message)
    return len(body).to_bytes(HEADER, "little") + body


def split_frames(buffer: bytearray) -> list[bytes]:
    """Remove all complete messages from a buffer and return them."""
    messages: list[bytes] = []
    while len(buffer) >= HEADER and len(buffer) >= (end := HEADER + int.from_bytes(buffer[:HEADER], "little")):
        messages.append(bytes(buffer[HEADER:end]))
        del buffer[:end]
    return messages


def read_frame(stream: BinaryIO) -> bytes:
    """Read the next message from a blocking stream. Raises `EOFError` at its end."""
    header = stream.read(HEADER)
    length = int.from_bytes(header, "little")
    body = stream.read(length) if len(header) == HEADER else b""
    if len(header) < HEADER or len(body) < length:
        raise EOFError
    return body


def serialize_error(error: Exception) -> ErrorMessage:
    """Convert an error to a message."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    has_arguments = isinstance(error, StoreError) and kind != Exception.__name__
    text = getattr(error, "strerror", None) or describe(error)
    return ErrorMessage(kind, text, vars(error) if has_arguments else {}, getattr(error, "sqlite_errorname", ""))


def deserialize_error(message: ErrorMessage) -> Exception:
    """Restore an error from its message."""
    kind = _ERRORS[message.kind]
    error = kind(**message.arguments) if message.arguments else kind(message.text)
    if isinstance(error, sqlite3.Error):
        error.sqlite_errorname = message.code
    return error


def main() -> None:
    """Write letters until the parent closes the socket, as the kernel does if the parent is killed.

    Stop signals are ignored: they are meant for the parent, which drains first.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=sys.stdin.fileno()) as connection, suppress(EOFError, ConnectionError):
        try:
            process_messages(connection)
        except (StoreError, sqlite3.Error, OSError) as error:
            connection.sendall(encode_frame(FatalMessage(serialize_error(error))))


def process_messages(connection: socket.socket) -> NoReturn:
    """Open the database, process messages, and close it. Raises `EOFError` at the end, or why the database failed."""
    stream = connection.makefile("rb")
    opening = msgpack.decode(read_frame(stream), type=OpenMessage)
    writer = Writer(opening.config, opening.statistics)
    writer.open(recount=opening.recount)
    connection.sendall(encode_frame(AddReply([], writer.statistics)))
    columns = msgpack.Decoder(Columns)
    try:
        while True:
            message = msgpack.decode(read_frame(stream), type=AddMessage)
            batches = [columns.decode(read_frame(stream)) for _ in range(message.batches)]
            writer.copies = message.copies
            results = writer.write(batches, refresh=message.refresh)
            errors = [None if error is None else serialize_error(error) for error in results]
            connection.sendall(encode_frame(AddReply(errors, writer.statistics)))
    finally:
        writer.close()


if __name__ == "__main__":
    main()
