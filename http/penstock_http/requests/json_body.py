"""Read small JSON bodies: an object with known fields. An unknown field is rejected, with the name that was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from penstock.deadletters.dead_letter_queue import Requester
from penstock.support.json_encoding import describe_json_error
from penstock.support.text import suggest
from penstock_http.media import JSON
from penstock_http.problems import RequestRejected
from penstock_http.requests.body import read_body, send_continue
from penstock_http.requests.negotiation import body_type
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.state import STATE

MAX_REASON = 1000
"""Maximum number of characters of a reason."""

T = TypeVar("T")

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class JsonBody:
    """The fields of a JSON object."""

    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def raw(self, name: str) -> bytes:
        """Return a field as it was sent: decoding would lose digits of large numbers."""
        return bytes(self._fields[name])

    def get(self, name: str, type: type[T], default: T, expected: str) -> T:
        """Return a field of a type. `expected` completes the message "expected …". Raises 400."""
        if name not in self._fields:
            return default
        try:
            return msgspec.json.decode(self._fields[name], type=type)
        except (msgspec.DecodeError, RecursionError):
            raise invalid_body(f"{name}: expected {expected}") from None

    def document(self, *names: str) -> dict[str, Any]:
        """Return the fields with some names as JSON values. Raises 400."""
        try:
            return {name: msgspec.json.decode(self._fields[name]) for name in names if name in self._fields}
        except (msgspec.DecodeError, RecursionError) as error:
            raise invalid_body(f"the body: {describe_json_error(error, b'')}") from None

    def convert(self, name: str, convert: Callable[[Any], T]) -> T:
        """Return a field converted by a function that raises `ValueError`; a missing one is an empty object."""
        self._reject_nul(name)
        return converted(lambda: convert(self.document(name).get(name, {})))

    def requester(self, name: str) -> Requester:
        """Return who does something, with the reason in the body. Raises 400."""
        self._reject_nul("reason")
        reason = self.get("reason", str, "", "a text")
        if len(reason) > MAX_REASON:
            raise invalid_body(f"reason: expected at most {MAX_REASON} characters, got {len(reason)}")
        return Requester(name, reason)

    def _reject_nul(self, name: str) -> None:
        """Raise 400 for the character NUL, which not every store can keep or search for."""
        if name in self and b"\\u0000" in self.raw(name):
            raise invalid_body(f"{name}: contains the character NUL")


async def read_object(request: web.Request, known: Sequence[str]) -> JsonBody:
    """Read a JSON object that has known fields only. Raises 400, 408, 413 and 415."""
    media_type, encoding = body_type(request)
    if media_type != JSON or encoding != "identity":
        raise RequestRejected(415, "unsupported_type", f"Content-Type: expected {JSON}, uncompressed")
    settings = request.app[STATE].settings
    await send_continue(request)
    chunks = StallDetector(settings.stall_timeout, settings.min_rate).read(request)
    body = await read_body(chunks, settings.max_body, f"the body can have at most {settings.max_body} bytes")
    try:
        fields = _FIELDS.decode(body)
    except msgspec.ValidationError:
        raise invalid_body(f"the body: expected an object with {', '.join(known)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = describe_json_error(error, body)
        raise RequestRejected(400, "malformed_body", f"the body is not valid JSON: {reason}") from None
    _reject_out_of_range(body, fields)
    for name in fields:
        if name not in known:
            similar = suggest(name, known)
            hint = f"did you mean {similar!r}?" if similar else f"known fields: {', '.join(known)}"
            raise invalid_body(f"unknown field {name[:100]!r}; {hint}")
    return JsonBody(fields)


def _reject_out_of_range(body: bytes | bytearray, fields: Mapping[str, msgspec.Raw]) -> None:
    """Raise 400 for JSON that cannot be decoded: an error in a field would be found later, or never."""
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError as error:  # a number such as 1e400
        name = next((name for name, value in fields.items() if not _is_decodable(value)), "the body")
        reason = str(error).partition(" - at ")[0]
        raise invalid_body(f"{name[:100]}: {reason[:1].lower()}{reason[1:]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = describe_json_error(error, body)
        raise RequestRejected(400, "malformed_body", f"the body is not valid JSON: {reason}") from None


def _is_decodable(value: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(value)
    except msgspec.DecodeError:
        return False
    return True


def converted(convert: Callable[[], T]) -> T:
    """Return what a function returns. Raises 400 if it raises `ValueError`."""
    try:
        return convert()
    except ValueError as error:
        raise invalid_body(str(error)) from None


def invalid_body(detail: str) -> RequestRejected:
    """Return the rejection of a body whose JSON is valid and whose fields are not."""
    return RequestRejected(400, "invalid_body", detail)
