"""`penstock dead-letters export|import`: write letters as NDJSON, and store them again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, BinaryIO

import click
import msgspec

from penstock.cli.dead_letters.arguments import DeskOptions, desk_options, filter_options, json_option, reason_option
from penstock.cli.dead_letters.opening import has_no, with_desk
from penstock.cli.dead_letters.tables import describe_query, plural
from penstock.cli.options import FILE, Command, print_error
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.store import DeadLetterQuery
from penstock.errors import RequestRefused
from penstock.redrive.desk import Desk
from penstock.redrive.documents import letter_document, letter_of, record_document
from penstock.support.json_encoding import encode_json
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.terminal import write_data

CHUNK = 64 * 1024
"""Bytes that are written at once."""

LINES = 500
"""Lines that are read at once."""


class InvalidLine(ValueError):
    """A line of an import is not a dead letter."""


@click.command(cls=Command)
@filter_options()
@desk_options
def export(place: DeskOptions, query: DeadLetterQuery) -> int:
    """Write letters to standard output as NDJSON, oldest first, with their complete inputs.

    `import` stores them in another store, with the same ids. Their histories stay here.
    """
    return with_desk(place, lambda desk: _export(desk, query), write=False)


@click.command("import", cls=Command)
@click.argument("file", metavar="FILE", type=FILE)
@reason_option
@json_option
@desk_options
def import_(place: DeskOptions, file: str, requester: Requester, as_json: bool) -> int:
    """Store letters that `export` wrote. FILE is a file, or - for standard input.

    A letter whose id is already stored is skipped, so an import can be repeated. A missing store is created.
    """
    try:
        source: BinaryIO = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        return print_error("dead-letters", f"{file} cannot be read: {error.strerror}", 2)
    with source:
        try:
            return with_desk(place, lambda desk: _import(desk, source, requester, as_json=as_json), create=True)
        except OSError as error:
            return print_error("dead-letters", f"{file} cannot be read: {error.strerror}")


async def _export(desk: Desk, query: DeadLetterQuery) -> int:
    buffer = bytearray()
    letters: Any = desk.export(query)
    found = False
    async with aclosing(letters):
        async for letter in letters:
            found = True
            buffer += encode_json(letter_document(letter)) + b"\n"
            if len(buffer) >= CHUNK:
                write_data(bytes(buffer))
                buffer.clear()
    write_data(bytes(buffer))
    return 0 if found else print_error("dead-letters", has_no(desk, f"such dead letters{describe_query(query)}"))


async def _import(desk: Desk, source: BinaryIO, requester: Requester, *, as_json: bool) -> int:
    try:
        report = await desk.import_letters(_letters(source), requester)
    except (InvalidLine, RequestRefused) as error:
        return print_error("dead-letters", error)
    if as_json:
        write_data(encode_json(record_document(report)) + b"\n")
    else:
        known = f", {report.skipped:,} known already" if report.skipped else ""
        write_data(f"{plural(report.imported, 'letter')} imported{known}\n")
        sys.stderr.write("redrives and edits that the letters had, and the audit, stay in the other store\n")
    return 0


async def _letters(source: BinaryIO) -> AsyncIterator[DeadLetter]:
    """Read letters, one per line. Raises `InvalidLine`; the letters of earlier lines may be stored then."""
    number = 0
    while lines := await to_thread_uncancellable(lambda: [line for _ in range(LINES) if (line := source.readline())]):
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                yield letter_of(msgspec.json.decode(line))
            except (ValueError, RecursionError) as error:
                raise InvalidLine(f"line {number}: {error}; the lines before it may be stored") from None
