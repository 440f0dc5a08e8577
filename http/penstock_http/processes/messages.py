"""The messages between the parent and each process: a length of four bytes, then msgpack."""

from __future__ import annotations

import socket
from typing import Any

from msgspec import Struct, msgpack

from penstock.settings import Settings

HEADER = 4
"""Bytes of the length of a message, in little-endian order."""

MAX_FRAME = 16 * 1024 * 1024
"""Maximum bytes of a message."""


class FrameTooLarge(ValueError):
    """A message exceeds the maximum."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a message between processes has {length} bytes, the maximum is {MAX_FRAME}")


class Start(Struct, frozen=True):
    """The first message to a process: what it is to serve."""

    number: int
    """Its number among the processes, from 1."""
    count: int
    """How many processes serve."""
    settings: Settings
    flows: tuple[str, ...]
    """The flow files, directories and names of flows in Python, as on the command line."""
    watch: bool
    workers_only: bool
    listener: int
    """The descriptor of the listening socket."""
    descriptors: dict[str, int]
    """The descriptors of the resources, by name."""
    path: tuple[str, ...]
    """The import path of the parent."""
    python_path: str | None
    """The variable `PYTHONPATH` of the parent, for the processes that a flow starts."""


class Failed(Struct, frozen=True):
    """A process could not start: the message, and the exit code of the command."""

    code: int
    message: str


class TakeLead(Struct, frozen=True):
    """What a process that begins to lead gets from the parent."""

    progress: bytes
    """The last report of a leader about its work; empty at first."""
    released: bool
    """Whether it was made when the work had stopped. Otherwise a leader has gone on from there, and has ended."""


class Ask(Struct, frozen=True):
    """A question of one process for all of them."""

    topic: str
    payload: bytes
    timeout: float


class Question(Struct, frozen=True, tag=True):
    """A question. `id` is unique for its sender; 0 expects no answer."""

    id: int
    topic: str
    payload: bytes


class Answer(Struct, frozen=True, tag=True):
    """The answer to a question, None if its handler failed."""

    id: int
    payload: bytes | None


Message = Question | Answer

_encode = msgpack.Encoder().encode
_decode_message = msgpack.Decoder(Message).decode


def encode_frame(message: Any) -> bytes:
    """Encode a message as a frame. Raises `FrameTooLarge`."""
    body = _encode(message)
    if len(body) > MAX_FRAME:
        raise FrameTooLarge(len(body))
    return len(body).to_bytes(HEADER, "little") + body


def decode_frames(buffer: bytearray) -> list[Message]:
    """Remove all complete frames from a buffer and return their messages. Raises `ValueError` for invalid ones."""
    messages: list[Message] = []
    while len(buffer) >= HEADER:
        length = int.from_bytes(buffer[:HEADER], "little")
        if length > MAX_FRAME:
            raise FrameTooLarge(length)
        if len(buffer) < HEADER + length:
            break
        messages.append(_decode_message(buffer[HEADER : HEADER + length]))
        del buffer[: HEADER + length]
    return messages


def read_start(connection: socket.socket) -> Start:
    """Read the first message from a blocking socket. Raises `EOFError` if the parent is gone."""
    length = int.from_bytes(_read(connection, HEADER), "little")
    return msgpack.decode(_read(connection, length), type=Start)


def _read(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        received = connection.recv(length - len(data))
        if not received:
            raise EOFError
        data += received
    return bytes(data)
