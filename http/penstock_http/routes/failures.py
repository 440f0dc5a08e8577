"""`/runs/{id}/failures`: the failed items of one run with their input, as NDJSON or CSV with the original columns."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from penstock.deadletters import DeadLetterQuery
from penstock.deadletters.dead_letter import DeadLetter, as_document
from penstock.formats.csv_header import split_delimiter
from penstock.formats.csv_reader import cell_reader
from penstock.redrive.desk import Desk
from penstock.support.ids import id_of
from penstock.support.json_encoding import encode_json
from penstock_http.media import NDJSON
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize
from penstock_http.responses.chunks import stream_chunks
from penstock_http.routes.all_processes import ALL_PROCESSES
from penstock_http.state import STATE

CSV = "text/csv"

MAX_COLUMNS = 1000
"""Maximum number of columns of a CSV response."""

VALUE = "value"
"""The name of the column for items that are not objects."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


async def list_failures(request: web.Request) -> web.StreamResponse:
    """Stream the failed items of a run. Works also for runs of earlier processes, because dead letters have the run."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request)
    media_type = negotiation.response_type(request, (NDJSON, CSV))
    state, run = request.app[STATE], request.match_info["id"]
    try:
        run = id_of(run)
    except ValueError:
        raise _not_found(run) from None
    query = DeadLetterQuery(run=run)
    if not (await state.desk.page(query, limit=1)).letters and not await request.app[ALL_PROCESSES].has_open_run(run):
        raise _not_found(run)
    if media_type == NDJSON:
        return await stream_chunks(request, NDJSON, _lines(state.desk, query))
    return await stream_chunks(request, f"{CSV}; charset=utf-8; header=present", _rows(state.desk, query))


def failure_document(letter: DeadLetter) -> dict[str, Any]:
    """Return a failed item as JSON values, with the names of its result line."""
    document = as_document(letter)
    names = ("seq", "part", "key", "error", "input", "header")
    return {name: document[name] for name in names if name in document} | {"deadLetter": letter.id}


async def _lines(desk: Desk, query: DeadLetterQuery) -> AsyncGenerator[bytes, None]:
    async for letter in desk.export(query):
        yield encode_json(failure_document(letter)) + b"\n"


async def _rows(desk: Desk, query: DeadLetterQuery) -> AsyncGenerator[bytes, None]:
    """Yield the header and the rows. Reads the dead letters twice: all columns are needed before the first row.

    Items that fail in between are left out: they may have more columns.
    """
    columns: dict[str, None] = {}
    last = ""
    async for letter in desk.export(query):
        columns |= dict.fromkeys(_columns(letter))
        last = letter.id
        if len(columns) > MAX_COLUMNS:
            raise RequestRejected(
                406,
                "not_acceptable",
                f"the items have more than {MAX_COLUMNS} different fields, too many for {CSV}; request {NDJSON}",
            )
    text = io.StringIO(newline="")
    write = csv.writer(text).writerow  # rows end with \r\n, as in RFC 4180

    def row(cells: Iterable[str]) -> bytes:
        text.seek(0)
        text.truncate()
        write(cells)
        return text.getvalue().encode(errors="backslashreplace")

    if columns:
        yield row(columns)
    async for letter in desk.export(query):
        if letter.id > last:
            return
        cells = _cells(letter)
        named = [cells.get(name, "") for name in columns]
        yield row(named + [cell for name, cell in cells.items() if name not in columns])


def _columns(letter: DeadLetter) -> Iterable[str]:
    """Return the names of the columns of an item: those of its CSV file, or the fields of an object."""
    if letter.header is not None:
        return _split(*split_delimiter(letter.header))
    fields = _fields(letter)
    return [VALUE] if fields is None else fields


def _cells(letter: DeadLetter) -> dict[str, str]:
    """Return the cells of an item by column. Cells of a row beyond its header are under names that are no column."""
    if letter.header is not None:
        header, delimiter = split_delimiter(letter.header)
        names, cells = _split(header, delimiter), _split(_text(letter), delimiter)
        extra = [f"\0{number}" for number in range(len(cells) - len(names))]
        return dict(zip([*names, *extra], cells, strict=False))
    fields = _fields(letter)
    if fields is None:
        return {VALUE: _text(letter)}
    return {name: _cell(value) for name, value in fields.items()}


def _fields(letter: DeadLetter) -> Mapping[str, msgspec.Raw] | None:
    """Return the fields of an item as they were sent, or None if it is not an object."""
    try:
        return _decode(letter.input)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _cell(value: msgspec.Raw) -> str:
    """Return a cell: text without quotes, null as an empty cell, anything else as JSON."""
    data = bytes(value)
    if data.startswith(b'"'):
        return _decode_text(data)
    return "" if data == b"null" else data.decode()


def _split(row: str, delimiter: str) -> list[str]:
    try:
        return cell_reader(delimiter)(row)
    except ValueError:  # a row with an invalid quote; its cells are unknown
        return [row]


def _text(letter: DeadLetter) -> str:
    return letter.input.decode(errors="backslashreplace")


def _not_found(run: str) -> RequestRejected:
    return RequestRejected(
        404, "run_not_found", f"there are no failed items of run {run}: its id is unknown, or none of its items failed"
    )
