"""What goes over the line to the process that writes letters, and back: frames of a length and a message."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from penstock.deadletters.writer import Numbers, Place
from penstock.errors import StoreMissing, StoreMoved, StoreReplaced, StoreTooNew, StoreTruncated, describe

HEAD = 4
"""Bytes that hold the length of a message, the lowest first."""


class Opening(Struct):
    """The first message: what to open, and the numbers to count on from."""

    place: Place
    numbers: Numbers


class Request(Struct):
    """A piece of work; as many messages follow as there are calls, with the columns of one caller each."""

    calls: int
    look_again: bool


class Fault(Struct):
    """An error, as far as anybody looks at it: its kind, its words or else its facts, and SQLite's name for it."""

    kind: str
    words: str
    facts: dict[str, Any]
    code: str


class Answer(Struct, tag=True):
    """A piece of work is done: what each caller has to be told, and the numbers by now."""

    faults: list[Fault | None]
    numbers: Numbers


class Refusal(Struct, tag=True):
    """The database could not be opened, or not be closed, and this is the last message."""

    fault: Fault


_KINDS: dict[str, Callable[..., Exception]] = {
    kind.__name__: kind
    for kind in (
        StoreMissing,
        StoreMoved,
        StoreReplaced,
        StoreTooNew,
        StoreTruncated,
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
"""The errors that arrive as what they were; all others as the nearest of these."""


def _plain(value: object) -> str:
    # A text of a class of its own, which is no text to msgspec.
    if isinstance(value, str):
        return "".join([value])
    raise TypeError(f"{type(value).__name__} cannot be stored")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def framed(message: Any) -> bytes:
    """A message, ready to be sent. Raises what an encoder raises, and `OverflowError` for one of 4 GiB."""
    body = _encode(message)
    return len(body).to_bytes(HEAD, "little") + body


def cut(held: bytearray) -> list[bytes]:
    """The messages that are complete in what has come so far; they are taken out of it."""
    found: list[bytes] = []
    while len(held) >= HEAD and len(held) >= (end := HEAD + int.from_bytes(held[:HEAD], "little")):
        found.append(bytes(held[HEAD:end]))
        del held[:end]
    return found


def take(stream: BinaryIO) -> bytes:
    """The next message of a stream, waited for. Raises `EOFError` when the line has ended."""
    head = stream.read(HEAD)
    length = int.from_bytes(head, "little")
    body = stream.read(length) if len(head) == HEAD else b""
    if len(head) < HEAD or len(body) < length:
        raise EOFError
    return body


def fault_of(error: Exception) -> Fault:
    """An error, as it is sent."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS)
    facts = vars(error) if isinstance(error, (StoreMissing, StoreMoved, StoreTooNew, StoreTruncated)) else {}
    words = getattr(error, "strerror", None) or describe(error)
    return Fault(kind, words, facts, getattr(error, "sqlite_errorname", ""))


def error_of(fault: Fault) -> Exception:
    """The error that was sent."""
    kind = _KINDS[fault.kind]
    error = kind(**fault.facts) if fault.facts else kind(fault.words)
    if isinstance(error, sqlite3.Error):
        error.sqlite_errorname = fault.code
    return error
