"""Refusals as problem documents (RFC 9457): one table turns errors into status, title and headers."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from penstock.any_json import as_json
from penstock.errors import AnswerTooLarge, PenstockError, Stopping, StoreError, TooManyRuns
from penstock.observe import Requests
from penstock.support.text import sanitize

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LEFT = 499
"""The status in the accounts of a client that left before its answer was whole (nginx's); nobody ever reads it."""

NOWHERE = "nowhere"
"""The name of the route that answers what no other does."""

RETRY_SECONDS = 5
"""What `Retry-After` says when we do not know better."""


class Refused(PenstockError):
    """A request that is not served: its status, a name for it that metrics can count, and a sentence."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.headers = headers or {}
        self.more = more or {}
        """Members that its problem document has beside the usual ones."""


TABLE: tuple[tuple[type[PenstockError], int, str], ...] = (
    (Stopping, 503, "stopping"),
    (TooManyRuns, 503, "too_many_runs"),
    (StoreError, 503, "store_unavailable"),
    (AnswerTooLarge, 413, "answer_too_large"),
)
"""Which errors of the library refuse a request, with which status, under which name."""


def refusal_of(error: PenstockError) -> Refused | None:
    """The refusal that an error of the library means, if it means one."""
    if isinstance(error, Refused):
        return error
    for kind, status, name in TABLE:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
            return Refused(status, name, str(error), headers)
    return None


def problem(
    status: int,
    detail: str,
    name: str | None = None,
    headers: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
) -> web.Response:
    """A problem document as a response."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = sanitize(detail)  # it may quote a header that is not UTF-8
    if name is not None:
        body["code"] = name
    body |= more or {}
    return web.Response(
        status=status,
        body=as_json(body),
        content_type="application/problem+json",
        headers=headers,
    )


def answer_problems(requests: Requests) -> Any:
    """A middleware: errors become problem documents, and every answer is counted."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _standard(request, error)
        except asyncio.CancelledError:
            count(request, LEFT)
            raise
        except ConnectionError as error:
            if request.transport is not None and not request.transport.is_closing():
                response = _broken(request, error)
            else:
                response = web.Response(status=LEFT)
        except PenstockError as error:
            # By a function: a name here for what may be the error itself would keep it, and with it the frames that it
            # came through and the body that they hold, until the collector looks.
            response = refuse(request, error)
        except Exception as error:
            response = _broken(request, error)
        count(request, response.status)
        return response

    def refuse(request: web.Request, error: PenstockError) -> web.Response:
        refused = refusal_of(error)
        if refused is None:
            return _broken(request, error)
        requests.refused[refused.name] += 1
        log.info("http.refused", path=request.path, status=refused.status, reason=refused.name)
        return problem(refused.status, str(refused), refused.name, refused.headers, refused.more)

    def count(request: web.Request, status: int) -> None:
        requests.answered[_route(request), _method(request), str(status)] += 1
        if status == LEFT:
            log.info("http.left", path=request.path)

    return middleware


def _broken(request: web.Request, error: Exception) -> web.Response:
    """The answer when there is a bug."""
    log.error("http.broke", path=request.path, exc_info=error)
    return problem(500, "something broke inside the service; its log tells what")


def _standard(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """aiohttp's own refusals, with a sentence that says what there is."""
    match error.status:
        case 404:
            return problem(404, f"there is nothing at {request.path}; GET /openapi.json tells what there is")
        case 405:
            allowed = error.headers.get("Allow", "")
            return problem(
                405,
                f"{request.path} answers to {allowed}, not to {request.method}",
                headers={"Allow": allowed},
            )
        case 413:
            return problem(413, error.text or "the body is too large")
        case _:
            return problem(error.status, error.text or error.reason)


def _route(request: web.Request) -> str:
    """The pattern of the route, never the path: labels have to be few."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None and resource.name != NOWHERE else "none"


def _method(request: web.Request) -> str:
    return request.method if request.method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
