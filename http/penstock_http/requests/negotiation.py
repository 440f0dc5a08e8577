"""What a client sends and what it wants: content types, encodings, query parameters, each refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from aiohttp import web

from penstock.support.text import suggest
from penstock_http.media import JSON, NDJSON, SSE
from penstock_http.problems import RequestRejected

_ANSWERS = (NDJSON, SSE, JSON)
ALIASES = {"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/x-jsonlines": NDJSON}
FLOWS = {
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
    "application/json": "json",
}
"""The types of flow files."""
ENCODINGS = ("gzip", "deflate", "zstd", "identity")


def response_type(request: web.Request, offers: tuple[str, ...] = _ANSWERS) -> str:
    """The media type of the answer, by `Accept` (RFC 9110, section 12.5.1); raises 406."""
    wanted = _list(request, "Accept") or "*/*"
    best = _best(wanted, offers)
    if not best:
        raise RequestRejected(
            406, "not_acceptable", f"the answer comes as {', '.join(offers)}; Accept asked for {wanted}"
        )
    return best


@lru_cache(maxsize=64)  # most clients ask for the same, request after request
def _best(accept: str, offers: tuple[str, ...]) -> str:
    """The offer that is wanted most; none if none is."""
    best: tuple[float, int, str] = (0.0, 0, "")
    for rank, offer in enumerate(offers):
        quality = _quality(accept, offer)
        if quality > best[0]:
            best = quality, -rank, offer
    return best[2]


def _list(request: web.Request, name: str) -> str:
    """A header that is a list; it may come in several lines (RFC 9110, section 5.3)."""
    return ",".join(request.headers.getall(name, ()))


def _quality(accept: str, offer: str) -> float:
    """How much an offer is wanted: the most specific range that matches it decides, of several the one of most."""
    specific, quality = -1, 0.0
    for part in accept.split(","):
        range_, *parameters = (piece.strip().lower() for piece in part.split(";"))
        range_ = ALIASES.get(range_, range_)
        level = 2 if range_ == offer else 1 if range_ == offer.split("/")[0] + "/*" else 0 if range_ == "*/*" else -1
        if level > specific:
            specific, quality = level, _q(parameters)
        elif level == specific >= 0:  # the same type by another of its names
            quality = max(quality, _q(parameters))
    return quality


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def body_type(request: web.Request) -> tuple[str, str]:
    """The media type and the encoding of the body; raises 415, and 501 for a transfer that is encoded, too."""
    transfer = _list(request, "Transfer-Encoding") or "chunked"
    if transfer.lower() != "chunked":
        said = f"a body is transferred as it is, or chunked, not as {transfer}; say Content-Encoding instead"
        raise RequestRejected(501, "unsupported_transfer", said)
    encoding = (_list(request, "Content-Encoding") or "identity").lower().removeprefix("x-")
    if encoding not in ENCODINGS:
        raise RequestRejected(415, "unsupported_encoding", f"a body comes as {', '.join(ENCODINGS)}, not as {encoding}")
    kind = ALIASES.get(request.content_type, request.content_type)
    if "Content-Type" not in request.headers or kind not in (NDJSON, JSON):
        found = request.headers.get("Content-Type", "none")
        raise RequestRejected(
            415,
            "unsupported_type",
            f"a body comes as {NDJSON} (an item a line) or {JSON} (an array), not as {found}",
        )
    return kind, encoding


def flow_content_type(request: web.Request) -> str:
    """The format of a flow file that is the body, as the ending of a file would say it; raises 415."""
    format = FLOWS.get(request.content_type if "Content-Type" in request.headers else "none")
    if format is None:
        found = request.headers.get("Content-Type", "none")
        raise RequestRejected(415, "unsupported_type", f"a flow comes as {', '.join(FLOWS)}, not as {found}")
    if (_list(request, "Content-Encoding") or "identity").lower() != "identity":
        raise RequestRejected(415, "unsupported_encoding", "a flow comes as it is, without Content-Encoding")
    return format


def accepts_gzip(request: web.Request) -> bool:
    """Whether the client reads gzip (RFC 9110, section 12.5.3): it has to name it."""
    return _names_gzip(_list(request, "Accept-Encoding"))


@lru_cache(maxsize=64)
def _names_gzip(accepted: str) -> bool:
    for part in accepted.split(","):
        coding, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if coding in ("gzip", "x-gzip"):
            return _q(parameters) > 0
    return False


def ordered(request: web.Request, default: bool) -> bool:
    """Whether results are to come in the order of the input: `?order=input`, or else as the flow has it."""
    order = request.query.get("order", "input" if default else "completion")
    if order not in ("input", "completion"):
        raise RequestRejected(400, "bad_parameter", f"order has to be input or completion, got {order!r}")
    return order == "input"


def number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number from the query."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19) or not least <= int(text) <= most:
        raise RequestRejected(
            400, "bad_parameter", f"{name} has to be a whole number from {least} to {most}, got {text!r}"
        )
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """Whether something is switched on in the query."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise RequestRejected(400, "bad_parameter", f"{name} has to be true or false, got {text!r}")
    return text == "true"


def reject_unknown_parameters(request: web.Request, *names: str) -> None:
    """Refuse parameters that are not known, or come twice: no part of what was asked must be passed over."""
    for name in request.query:
        if (times := len(request.query.getall(name))) > 1:
            raise RequestRejected(400, "bad_parameter", f"{name!r} may come once, not {times} times")
        if name not in names:
            meant = suggest(name, names)
            hint = f"; did you mean {meant}?" if meant else f"; there are {', '.join(names) or 'none'}"
            raise RequestRejected(400, "bad_parameter", f"there is no parameter {name!r} here{hint}")
