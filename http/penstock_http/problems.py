"""Reject requests with problem documents (RFC 9457). One table maps errors to status and code."""

from __future__ import annotations

import asyncio
import errno
import os
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from penstock.errors import (
    InvalidEdit,
    InvalidExpression,
    JobConflict,
    JobEnded,
    JobNotFound,
    LetterNotEditable,
    LetterNotFound,
    NoLetters,
    NotSupportedByStore,
    PenstockError,
    RedriveError,
    ResponseTooLarge,
    SeveralStores,
    ShuttingDown,
    StoreError,
    TooManyRuns,
)
from penstock.observe import HttpCounters
from penstock.support.json_encoding import encode_json
from penstock.support.text import sanitize

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CLIENT_CLOSED_REQUEST = 499
"""The status that is counted and logged when a client disconnected before its response was complete, as in nginx."""

NOT_FOUND_ROUTE = "not_found"
"""The name of the route for paths and methods that no other route handles."""

RETRY_SECONDS = 5
"""Seconds in `Retry-After` when the duration is not known."""

BIND_HINTS = {
    errno.EADDRINUSE: "; choose another port with --port, or 0 for a free one",
    errno.EACCES: "; choose a port above 1023 with --port",
    errno.EADDRNOTAVAIL: "; choose an address of this machine with --host",
}
"""What to do about an error of `bind`."""


class ListenFailed(PenstockError):
    """The address is in use, is not an address of this machine, or needs privileges."""

    def __init__(self, host: str, port: int, error: OSError | UnicodeError) -> None:
        code = getattr(error, "errno", None) or 0  # negative for host names that cannot be resolved
        reason = os.strerror(code) if code > 0 else getattr(error, "strerror", None) or error
        hint = BIND_HINTS.get(code, "")
        super().__init__(f"cannot listen on {host}:{port}: {reason}{hint}")


class RequestRejected(PenstockError):
    """A request is rejected.

    `code` identifies the reason in responses and metrics, `detail` is a sentence for people, and `members` are
    additional members of the problem document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: dict[str, str] | None = None,
        members: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.members = members or {}


ERROR_TABLE: tuple[tuple[type[PenstockError], int, str], ...] = (
    (ShuttingDown, 503, "shutting_down"),
    (TooManyRuns, 503, "too_many_runs"),
    (NotSupportedByStore, 501, "not_supported_by_store"),
    (StoreError, 503, "store_unavailable"),
    (LetterNotFound, 404, "dead_letter_not_found"),
    (NoLetters, 404, "no_letters"),
    (JobNotFound, 404, "job_not_found"),
    (JobConflict, 409, "job_conflict"),
    (JobEnded, 409, "job_ended"),
    (LetterNotEditable, 409, "not_editable"),
    (SeveralStores, 409, "several_stores"),
    (InvalidEdit, 400, "invalid_body"),
    (InvalidExpression, 400, "invalid_body"),
    (RedriveError, 409, "redrive_rejected"),
    (ResponseTooLarge, 413, "response_too_large"),
)
"""Errors of the library that reject a request, each with its status and code. The first that fits counts."""


def rejection_for(error: PenstockError) -> RequestRejected | None:
    """Return the rejection for an error of the library, or None for an unexpected error."""
    if isinstance(error, RequestRejected):
        return error
    for kind, status, code in ERROR_TABLE:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
            return RequestRejected(status, code, str(error), headers)
    return None


def problem(
    status: int,
    detail: str,
    code: str | None = None,
    headers: dict[str, str] | None = None,
    members: dict[str, Any] | None = None,
) -> web.Response:
    """Return a response with a problem document."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = sanitize(detail)  # it may quote a header that is not UTF-8
    if code is not None:
        body["code"] = code
    body |= members or {}
    return web.Response(
        status=status,
        body=encode_json(body),
        content_type="application/problem+json",
        headers=headers,
    )


def problem_middleware(counters: HttpCounters) -> Any:
    """Return a middleware that turns errors into problem documents and counts responses."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _http_error(request, error)
        except asyncio.CancelledError:
            count(request, CLIENT_CLOSED_REQUEST)
            raise
        except ConnectionError as error:
            if request.transport is not None and not request.transport.is_closing():
                response = _internal_error(request, error)
            else:
                response = web.Response(status=CLIENT_CLOSED_REQUEST)
        except PenstockError as error:
            # In a function, because a local variable here that refers to the error would keep its frames, and the
            # body that they hold, alive until the next garbage collection.
            response = reject(request, error)
        except Exception as error:
            response = _internal_error(request, error)
        count(request, response.status)
        return response

    def reject(request: web.Request, error: PenstockError) -> web.Response:
        rejection = rejection_for(error)
        if rejection is None:
            return _internal_error(request, error)
        counters.rejected[rejection.code] += 1
        log.info("http.rejected", path=request.path, status=rejection.status, reason=rejection.code)
        return problem(rejection.status, str(rejection), rejection.code, rejection.headers, rejection.members)

    def count(request: web.Request, status: int) -> None:
        counters.responses[_route(request), _method(request), str(status)] += 1
        if status == CLIENT_CLOSED_REQUEST:
            log.info("http.client_disconnected", path=request.path)

    return middleware


def _internal_error(request: web.Request, error: Exception) -> web.Response:
    """Return the response for an unexpected error, which is a bug."""
    log.error("http.internal_error", path=request.path, exc_info=error)
    return problem(500, "an error occurred inside the service; the log has the details", "internal_error")


def _http_error(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """Return a problem document for an error that aiohttp raised."""
    match error.status:
        case 404:
            return problem(404, f"unknown path {request.path}; GET /openapi.json lists the paths")
        case 405:
            allowed = error.headers.get("Allow", "")
            return problem(
                405,
                f"{request.path} does not support {request.method}; supported: {allowed}",
                headers={"Allow": allowed},
            )
        case 413:
            return problem(413, error.text or "the body is too large")
        case _:
            return problem(error.status, error.text or error.reason)


def _route(request: web.Request) -> str:
    """Return the pattern of the route. A metric label cannot be the path, which has unlimited values."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None and resource.name != NOT_FOUND_ROUTE else "none"


def _method(request: web.Request) -> str:
    return request.method if request.method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
