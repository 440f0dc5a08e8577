"""The messages between a worker process of a service and the `WriterHub` in its parent.

Each frame is one message in msgpack. A store has one request under way at a time, and each request gets one reply.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, msgpack

from penstock.deadletters.sqlite.writer import WriterConfig, WriterStatistics
from penstock.deadletters.sqlite.writer_main import ErrorMessage


class Batch(Struct, array_like=True):
    """The letters of one caller, as a frame for the writer process, and how many they are."""

    count: int
    frame: bytes


class OpenRequest(Struct, tag=True):
    """Open a database for a store of the worker, which chooses the number of the store."""

    store: int
    config: WriterConfig


class AddRequest(Struct, tag=True):
    """Check the file and the counts, if `refresh` is set, and store the letters of some callers."""

    store: int
    batches: list[Batch]
    refresh: bool
    copies: tuple[str, ...]


class CloseRequest(Struct, tag=True):
    """Close a store of the worker."""

    store: int


class Reply(Struct):
    """The result: one entry for opening, for closing and for a check, otherwise one for each caller."""

    store: int
    errors: list[ErrorMessage | None]
    statistics: WriterStatistics
    """How the counters have changed, for this worker; `counts` are those of the database."""


request_decoder: msgpack.Decoder[Any] = msgpack.Decoder(OpenRequest | AddRequest | CloseRequest)
reply_decoder = msgpack.Decoder(Reply)
