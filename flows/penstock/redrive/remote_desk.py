"""The desk of a running service, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import quote

import aiohttp

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import Group, History, Job, JobOptions, JobState, Requester
from penstock.deadletters.store import PAGE, DeadLetterQuery, Page
from penstock.errors import JobNotFound, LetterNotFound, NoLetters, RequestRefused, ServiceNotReached, describe
from penstock.redrive.desk import SHOWN_CHANGES
from penstock.redrive.documents import (
    audit_page_of,
    change_of,
    edit_report_of,
    history_of,
    job_of,
    letter_document,
    letter_of,
    options_document,
    plan_of,
    query_document,
    record_of,
    try_of,
)
from penstock.redrive.records import AuditPage, Change, EditReport, ImportReport, LogReport, Plan, TryResult
from penstock.support.json_encoding import encode_json

CONNECT_SECONDS = 10.0

READ_SECONDS = 300.0
"""Seconds without a byte of a response. The plan of many letters takes long. Redrives and tries have no limit."""

_UNLIMITED = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)

RETRIES = 5
"""How often a progress stream that was cut is opened again without having delivered anything."""

LINE_LIMIT = 64 * 1024 * 1024
"""Bytes of one letter in an export."""


class RemoteDesk:
    """The desk of the service at a URL. Requesters are the names of tokens there; only reasons are sent.

    Raises `ServiceNotReached` and `RequestRefused`. Use it as a context manager.
    """

    def __init__(self, url: str, token: str | None = None, *, read_seconds: float = READ_SECONDS) -> None:
        if not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", url):
            raise ValueError(f"--url: expected the URL of a service, such as http://127.0.0.1:8080, got {url!r}")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> RemoteDesk:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout, trust_env=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def places(self) -> list[str]:
        """Return the URL of the service."""
        return [self.url]

    async def groups(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> list[Group]:
        """Return groups."""
        found = await self._get("/groups", _parameters(query) + _page(after, limit))
        return [record_of(group, Group) for group in found["groups"]]

    async def total(self, query: DeadLetterQuery) -> Mapping[str, int]:
        """Count letters by state."""
        found = await self._get("/count", _parameters(query))
        return {state: int(count) for state, count in found["total"].items()}

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters."""
        found = await self._get("", _parameters(query) + _page(after, limit))
        return Page([letter_of(letter) for letter in found["letters"]], found["next"])

    async def show(self, id: str) -> tuple[DeadLetter, History] | None:
        """Return a letter with what was done to it, or None."""
        try:
            found = await self._get(f"/{quote(id, safe='')}")
        except RequestRefused as error:
            if error.status == 404:
                return None
            raise
        return letter_of(found), history_of(found)

    async def plan(self, query: DeadLetterQuery, options: JobOptions) -> Plan:
        """Return what a redrive would do."""
        return plan_of(await self._redrives(query, options, plan=True))

    async def try_letters(self, query: DeadLetterQuery, options: JobOptions, count: int) -> list[TryResult]:
        """Run some letters without sinks."""
        found = await self._redrives(query, options, **{"try": count})
        return [try_of(result) for result in found["results"]]

    async def redrive(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job | LogReport:
        """Create a job, which runs in the service."""
        found = await self._redrives(query, options, reason=requester.reason)
        return job_of(found) if "state" in found else record_of(found, LogReport)

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = PAGE) -> list[Job]:
        """Return jobs."""
        chosen = [] if state is None else [("state", str(state))]
        found = await self._get("/redrives", chosen + _page(after, limit))
        return [job_of(job) for job in found["redrives"]]

    async def job(self, id: str) -> Job:
        """Return a job."""
        with _not_found(JobNotFound(id)):
            return job_of(await self._get(_job_path(id)))

    async def change_job(
        self,
        id: str,
        requester: Requester,
        *,
        state: Literal["running", "paused", "cancelled"] | None = None,
        rate: float | Literal["keep"] | None = "keep",
    ) -> Job:
        """Change a job."""
        changes: dict[str, Any] = {"reason": requester.reason}
        changes |= {} if state is None else {"state": state}
        changes |= {} if rate == "keep" else {"rate": rate}
        with _not_found(JobNotFound(id)):
            return job_of(await self._send("PATCH", _job_path(id), changes))

    async def progress(self, id: str) -> AsyncGenerator[Job]:
        """Yield a job after changes, from a stream of events. A stream that is cut is opened again."""
        job = await self.job(id)
        yield job
        failures = 0
        while job.state == "running":
            try:
                async for fresh in self._events(id):
                    failures = 0
                    if fresh != job:
                        yield fresh
                    job = fresh
                fresh = await self.job(id)
            except ServiceNotReached:
                failures += 1
                if failures > RETRIES:
                    raise
                await asyncio.sleep(min(2.0**failures / 2, 10.0))
                continue
            if fresh != job:
                yield fresh
            job = fresh

    async def park(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Park waiting letters."""
        return await self._mark("park", query, requester)

    async def unpark(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Make parked letters wait."""
        return await self._mark("unpark", query, requester)

    async def purge(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Delete letters that are not claimed."""
        return await self._mark("purge", query, requester)

    async def edit(self, id: str, input: bytes, requester: Requester) -> DeadLetter:
        """Replace the input of a letter."""
        changes = {"inputText": input.decode(), "reason": requester.reason}
        with _not_found(LetterNotFound(id)):
            return letter_of(await self._send("PATCH", f"/{quote(id, safe='')}", changes))

    async def preview(
        self, query: DeadLetterQuery, assignments: Sequence[str], *, count: int = SHOWN_CHANGES
    ) -> list[Change]:
        """Return what `apply` would change in the first letters. The service decides how many these are."""
        body = {**_selection(query), "set": list(assignments), "preview": True}
        found = await self._send("POST", "/edits", body)
        return [change_of(change) for change in found["changes"][:count]]

    async def apply(self, query: DeadLetterQuery, assignments: Sequence[str], requester: Requester) -> EditReport:
        """Change the inputs of all letters that match."""
        body = {**_selection(query), "set": list(assignments), "reason": requester.reason}
        return edit_report_of(await self._send("POST", "/edits", body))

    async def export(self, query: DeadLetterQuery) -> AsyncGenerator[DeadLetter]:
        """Yield all letters that match, as they arrive."""
        async with self._response("GET", "/export", params=_parameters(query)) as response:
            async for line in _lines(response, self.url):
                yield letter_of(json.loads(line))

    async def import_letters(self, letters: AsyncIterable[DeadLetter], requester: Requester) -> ImportReport:
        """Store letters, which are sent as they are read."""
        failure: list[Exception] = []

        async def lines() -> AsyncIterator[bytes]:
            try:
                async for letter in letters:
                    yield encode_json(letter_document(letter)) + b"\n"
            except Exception as error:  # aiohttp would report it as a failed connection
                failure.append(error)
                raise

        headers = {"Content-Type": "application/x-ndjson"}
        parameters = [("reason", requester.reason)] if requester.reason else []
        try:
            async with self._response("POST", "/import", params=parameters, data=lines(), headers=headers) as response:
                return record_of(await response.json(), ImportReport)
        except ServiceNotReached:
            if failure:
                raise failure[0] from None
            raise

    async def audit(self, *, job: str | None = None, after: str | None = None, limit: int = PAGE) -> AuditPage:
        """Return audit records."""
        chosen = [] if job is None else [("job", job)]
        return audit_page_of(await self._get("/audit", chosen + _page(after, limit)))

    async def _mark(self, action: str, query: DeadLetterQuery, requester: Requester) -> int:
        found = await self._send("POST", f"/{action}", {**_selection(query), "reason": requester.reason})
        return int(found["count"])

    async def _redrives(self, query: DeadLetterQuery, options: JobOptions, **more: Any) -> Any:
        chosen = {name: value for name, value in options_document(options).items() if value is not None}
        # The response to a redrive of a log, or to a try, comes when all letters have run.
        timeout = self._timeout if "plan" in more else _UNLIMITED
        try:
            return await self._send("POST", "/redrives", {**_selection(query), **chosen, **more}, timeout=timeout)
        except RequestRefused as error:
            if error.code == "no_letters":
                raise NoLetters from None
            raise

    async def _events(self, id: str) -> AsyncIterator[Job]:
        headers = {"Accept": "text/event-stream"}
        async with self._response("GET", _job_path(id), headers=headers) as response:
            async for line in _lines(response, self.url):
                if line.startswith(b"data:") and line[5:].strip():
                    document: Any = json.loads(line[5:])
                    if "state" in document:
                        yield job_of(document)

    async def _get(self, path: str, parameters: Sequence[tuple[str, str]] = ()) -> Any:
        async with self._response("GET", path, params=parameters) as response:
            return await response.json()

    async def _send(self, method: str, path: str, body: Mapping[str, Any], **options: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        async with self._response(method, path, data=encode_json(body), headers=headers, **options) as response:
            return await response.json()

    @asynccontextmanager
    async def _response(self, method: str, path: str, **options: Any) -> AsyncGenerator[aiohttp.ClientResponse]:
        assert self._session is not None, "use it as a context manager"
        try:
            async with self._session.request(method, f"{self.url}/dead-letters{path}", **options) as response:
                if response.status >= 400:
                    raise await _refusal(self.url, response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceNotReached(self.url, _reason(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, json.JSONDecodeError | KeyError | TypeError):
                raise ServiceNotReached(self.url, "its response is not one of Penstock") from error
            raise


class _not_found:  # noqa: N801 - used like a function
    """Raise another error for a response with the status 404."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RequestRefused) and error.status == 404:
            raise self._error from None


async def _refusal(url: str, response: aiohttp.ClientResponse) -> RequestRefused:
    """Make the error for a problem document, or for the response of another program."""
    try:
        problem = json.loads(await response.read())
        return RequestRefused(url, response.status, str(problem.get("code", "")), str(problem["detail"]))
    except (ValueError, KeyError, AttributeError, TypeError):
        return RequestRefused(url, response.status, "", response.reason or "no reason")


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        problem = getattr(error.certificate_error, "verify_message", "")
        return f"its certificate is not trusted ({problem}); set SSL_CERT_FILE to the PEM file of its authority"
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno or 0  # negative for host names that cannot be resolved
        return os.strerror(code).lower() if code > 0 else describe(error.os_error)
    if isinstance(error, TimeoutError):
        return "it did not respond in time"
    return describe(error)


async def _lines(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    """Yield the lines of a response, of any length up to a limit."""
    buffer = bytearray()
    async for chunk in response.content.iter_any():
        start = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", start)) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
            start = 0
        if len(buffer) > LINE_LIMIT:
            raise ServiceNotReached(url, f"a line of its response exceeds {LINE_LIMIT} bytes")
    if buffer.strip():
        yield bytes(buffer)


def _parameters(query: DeadLetterQuery) -> list[tuple[str, str]]:
    """Convert a query to the parameters of a URL."""
    fields = query_document(query)
    ids = fields.pop("ids", ())
    if isinstance(query.key, str):
        fields["key"] = json.dumps(query.key)
    return [*((name, str(value)) for name, value in fields.items()), *(("id", id) for id in ids)]


def _selection(query: DeadLetterQuery) -> dict[str, Any]:
    """Convert a query to members of a body. All letters are selected explicitly."""
    fields = query_document(query)
    return {"query": fields} if fields else {"query": {}, "all": True}


def _page(after: str | None, limit: int) -> list[tuple[str, str]]:
    return [("limit", str(limit)), *([] if after is None else [("after", after)])]


def _job_path(id: str) -> str:
    return f"/redrives/{quote(id, safe='')}"
