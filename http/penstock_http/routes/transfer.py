"""`/dead-letters/export` and `import`: stream dead letters out of and into the stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

import msgspec
from aiohttp import web

from penstock.deadletters import DeadLetterQuery
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import Requester
from penstock.formats.ndjson_reader import LineSplitter
from penstock.formats.rejected import OversizedInput
from penstock.redrive.desk import Desk
from penstock.redrive.documents import import_document, letter_document, letter_of
from penstock.support.decompression import BodyDecodeFailed, decompressed
from penstock.support.json_encoding import describe_json_error, encode_json
from penstock_http.media import NDJSON, json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize
from penstock_http.requests.body import send_continue
from penstock_http.requests.json_body import MAX_REASON
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.responses.chunks import stream_chunks
from penstock_http.routes.letters import FILTERS, query_of
from penstock_http.state import STATE

LINE_FACTOR = 8
"""How much longer the line of a dead letter may be than its input: JSON in JSON is escaped, and it has more fields."""

_decode = msgspec.json.Decoder().decode


async def export_letters(request: web.Request) -> web.StreamResponse:
    """Stream all dead letters that match, one per line, as `import` accepts them."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, *FILTERS, repeatable="id")
    return await stream_chunks(request, NDJSON, _lines(request.app[STATE].desk, query_of(request)))


async def import_letters(request: web.Request) -> web.Response:
    """Store the dead letters in the body. Those that are stored already are skipped."""
    name = authorize(request, "edit")
    negotiation.reject_unknown_parameters(request, "reason")
    reason = request.query.get("reason", "")
    if len(reason) > MAX_REASON:
        raise RequestRejected(400, "bad_parameter", f"reason: expected at most {MAX_REASON} characters")
    media_type, encoding = negotiation.body_type(request)
    if media_type != NDJSON:
        raise RequestRejected(415, "unsupported_type", f"Content-Type: expected {NDJSON} (one dead letter per line)")
    state = request.app[STATE]
    detector = StallDetector(state.settings.stall_timeout, state.settings.min_rate)
    with state.streams.enter():
        await send_continue(request)
        letters = _letters(decompressed(detector.read(request), encoding), LINE_FACTOR * state.settings.max_line + 4096)
        return json_response(import_document(await state.desk.import_letters(letters, Requester(name, reason))))


async def _lines(desk: Desk, query: DeadLetterQuery) -> AsyncGenerator[bytes, None]:
    async for letter in desk.export(query):
        yield encode_json(letter_document(letter)) + b"\n"


async def _letters(chunks: AsyncIterable[bytes], limit: int) -> AsyncGenerator[DeadLetter, None]:
    """Yield the dead letters in a body. Raises 400, 408 and 413, with the number of the line."""
    splitter, number = LineSplitter(limit), 0
    try:
        async for chunk in chunks:
            for line in splitter.feed(chunk):
                number += 1
                yield _letter(line, number)
        for line in splitter.finish():
            number += 1
            yield _letter(line, number)
    except TimeoutError:
        raise RequestRejected(408, "stalled", f"the body did not arrive in time; {_progress(number)}") from None
    except (web.RequestPayloadError, BodyDecodeFailed) as error:
        raise RequestRejected(400, "body_decode_failed", f"{error}; {_progress(number)}") from None


def _letter(line: bytes, number: int) -> DeadLetter:
    members = {"line": number}
    if isinstance(line, OversizedInput):
        detail = f"line {number}: has {line.length} bytes, the limit is {line.limit}; {_progress(number - 1)}"
        raise RequestRejected(413, "body_too_large", detail, members=members)
    try:
        return letter_of(_decode(line))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"line {number}: not valid JSON: {describe_json_error(error, line)}; {_progress(number - 1)}"
        raise RequestRejected(400, "malformed_body", detail, members=members) from None
    except ValueError as error:
        detail = f"line {number}: {error}; {_progress(number - 1)}"
        raise RequestRejected(400, "invalid_body", detail, members=members) from None


def _progress(lines: int) -> str:
    return f"{lines} lines before it may be imported, and are skipped when the body is sent again"
