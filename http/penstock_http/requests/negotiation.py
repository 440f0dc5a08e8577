"""Read media types, content encodings and query parameters from requests. Unsupported ones are rejected."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from aiohttp import web

from penstock.flow import Flow
from penstock.runtime import Order
from penstock.support.text import suggest
from penstock_http.media import JSON, NDJSON, SSE
from penstock_http.problems import RequestRejected

RESPONSE_TYPES = (NDJSON, SSE, JSON)
ALIASES = {"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/x-jsonlines": NDJSON}
FLOW_FORMATS = {
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
    "application/json": "json",
}
"""The format of a flow file for each media type."""
ENCODINGS = ("gzip", "deflate", "zstd", "identity")


def response_type(request: web.Request, supported: tuple[str, ...] = RESPONSE_TYPES) -> str:
    """Return the media type of the response, chosen by `Accept` (RFC 9110, section 12.5.1). Raises 406."""
    accept = _list_header(request, "Accept") or "*/*"
    best = _best_type(accept, supported)
    if not best:
        raise RequestRejected(406, "not_acceptable", f"Accept: expected one of {', '.join(supported)}, got {accept}")
    return best


def body_type(request: web.Request) -> tuple[str, str]:
    """Return the media type and the content encoding of the body. Raises 415, and 501 for a transfer encoding."""
    transfer = _list_header(request, "Transfer-Encoding") or "chunked"
    if transfer.lower() != "chunked":
        message = f"Transfer-Encoding: expected chunked or none, got {transfer}; to compress, use Content-Encoding"
        raise RequestRejected(501, "unsupported_transfer", message)
    encoding = (_list_header(request, "Content-Encoding") or "identity").lower().removeprefix("x-")
    if encoding not in ENCODINGS:
        raise RequestRejected(
            415, "unsupported_encoding", f"Content-Encoding: expected one of {', '.join(ENCODINGS)}, got {encoding}"
        )
    media_type = ALIASES.get(request.content_type, request.content_type)
    if "Content-Type" not in request.headers or media_type not in (NDJSON, JSON):
        found = request.headers.get("Content-Type", "none")
        raise RequestRejected(
            415,
            "unsupported_type",
            f"Content-Type: expected {NDJSON} (one item per line) or {JSON} (an array), got {found}",
        )
    return media_type, encoding


def flow_content_type(request: web.Request) -> str:
    """Return the format of the flow file in the body, as a file extension. Raises 415."""
    format = FLOW_FORMATS.get(request.content_type if "Content-Type" in request.headers else "none")
    if format is None:
        found = request.headers.get("Content-Type", "none")
        raise RequestRejected(
            415, "unsupported_type", f"Content-Type: expected one of {', '.join(FLOW_FORMATS)}, got {found}"
        )
    encoding = (_list_header(request, "Content-Encoding") or "identity").lower()
    if encoding != "identity":
        raise RequestRejected(
            415, "unsupported_encoding", f"Content-Encoding: expected none for a flow file, got {encoding}"
        )
    return format


def accepts_gzip(request: web.Request) -> bool:
    """Return whether `Accept-Encoding` names gzip (RFC 9110, section 12.5.3). A wildcard is not enough."""
    return _names_gzip(_list_header(request, "Accept-Encoding"))


def order_parameter(request: web.Request, flow: Flow[Any]) -> Order:
    """Return the order of results: that of the query parameter, or else that of the flow. Raises 400."""
    text = request.query.get("order", flow.ordering)
    if text not in set(Order):
        raise RequestRejected(400, "bad_parameter", f"order: expected completion, input or key, got {text!r}")
    if text == Order.KEY and flow.key is None:
        raise RequestRejected(400, "bad_parameter", f"order: key: the items of flow {flow.name} have no key")
    return Order(text)


def integer_parameter(query: Mapping[str, str], name: str, default: int, min: int, max: int) -> int:
    """Return a query parameter that is an integer. Raises 400."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19) or not min <= int(text) <= max:
        raise RequestRejected(400, "bad_parameter", f"{name}: expected an integer from {min} to {max}, got {text!r}")
    return int(text)


def boolean_parameter(query: Mapping[str, str], name: str) -> bool:
    """Return a query parameter that is true or false; the default is false. Raises 400."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise RequestRejected(400, "bad_parameter", f"{name}: expected true or false, got {text!r}")
    return text == "true"


def reject_unknown_parameters(request: web.Request, *names: str, repeatable: str | None = None) -> None:
    """Raise 400 for a query parameter that is unknown or repeated, so that none is ignored silently.

    Also for one that contains NUL, which not every store can search for.
    """
    for name, value in request.query.items():
        if "\0" in value:
            raise RequestRejected(400, "bad_parameter", f"{name}: contains the character NUL")
        if name != repeatable and (times := len(request.query.getall(name))) > 1:
            raise RequestRejected(400, "bad_parameter", f"the parameter {name!r} is given {times} times")
        if name not in names:
            similar = suggest(name, names)
            hint = f"did you mean {similar!r}?" if similar else f"known parameters: {', '.join(names) or 'none'}"
            raise RequestRejected(400, "bad_parameter", f"unknown parameter {name!r}; {hint}")


@lru_cache(maxsize=64)  # most clients send the same header with each request
def _best_type(accept: str, supported: tuple[str, ...]) -> str:
    """Return the supported media type with the highest quality, or an empty string."""
    best: tuple[float, int, str] = (0.0, 0, "")
    for rank, media_type in enumerate(supported):
        quality = _quality(accept, media_type)
        if quality > best[0]:
            best = quality, -rank, media_type
    return best[2]


def _quality(accept: str, media_type: str) -> float:
    """Return the quality of a media type: that of the most specific range that matches, or the highest of several."""
    specificity, quality = -1, 0.0
    for part in accept.split(","):
        range_, *parameters = (piece.strip().lower() for piece in part.split(";"))
        range_ = ALIASES.get(range_, range_)
        if range_ == media_type:
            level = 2
        elif range_ == media_type.split("/")[0] + "/*":
            level = 1
        else:
            level = 0 if range_ == "*/*" else -1
        if level > specificity:
            specificity, quality = level, _q(parameters)
        elif level == specificity >= 0:  # the same type under another of its names
            quality = max(quality, _q(parameters))
    return quality


@lru_cache(maxsize=64)
def _names_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        coding, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if coding in ("gzip", "x-gzip"):
            return _q(parameters) > 0
    return False


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def _list_header(request: web.Request, name: str) -> str:
    """Return a header that is a list. It may be sent in several lines (RFC 9110, section 5.3)."""
    return ",".join(request.headers.getall(name, ()))
