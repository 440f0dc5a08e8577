"""The process that writes the dead letters of another one: `python -m penstock.deadletters.process URL`.

Only that one starts it, and speaks with it over its standard input. The URL is there to be seen in a list of processes.
"""

from __future__ import annotations

import signal
import socket
import sqlite3
import sys
from contextlib import suppress
from typing import NoReturn

from msgspec import msgpack

from penstock.deadletters.rows import Columns
from penstock.deadletters.wire import Answer, Opening, Refusal, Request, fault_of, framed, take
from penstock.deadletters.writer import Writer
from penstock.errors import StoreError


def main() -> None:
    """Write until the line ends. A stop is the affair of the process at its other end, which drains first."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with (
        socket.socket(fileno=sys.stdin.fileno()) as line,
        suppress(EOFError, ConnectionError),  # the line has ended, as it does even when the other process was killed
    ):
        try:
            write_all(line)
        except (StoreError, sqlite3.Error, OSError) as error:
            line.sendall(framed(Refusal(fault_of(error))))


def write_all(line: socket.socket) -> NoReturn:
    """Open the database, write what comes, and close it; raises `EOFError` after that, or why it cannot."""
    stream = line.makefile("rb")
    opening = msgpack.decode(take(stream), type=Opening)
    writer = Writer(opening.place, opening.numbers)
    writer.open()
    line.sendall(framed(Answer([], writer.numbers)))
    columns = msgpack.Decoder(Columns)
    try:
        while True:
            request = msgpack.decode(take(stream), type=Request)
            calls = [columns.decode(take(stream)) for _ in range(request.calls)]
            errors = writer.work(calls, look_again=request.look_again)
            faults = [None if error is None else fault_of(error) for error in errors]
            line.sendall(framed(Answer(faults, writer.numbers)))
    finally:
        writer.close()


if __name__ == "__main__":
    main()
