"""Calls over HTTP, for services: a request for each value, and errors that say whether to retry.

A 2xx is a response. 408, 425, 429 and 5xx are retried, not before `Retry-After` (up to the cap of the backoff), and so
are connection errors. All other statuses are final.
"""

from __future__ import annotations

import asyncio
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar, cast

import msgspec

from penstock.core.deadlines import CALL_DEADLINE, remaining_seconds
from penstock.errors import InvalidCallResult, InvalidItem, describe, is_retryable_status
from penstock.services.deadline_header import format_deadline
from penstock.services.direct_calls import DirectFunction
from penstock.services.http_client import (
    ConnectionStatistics,
    HttpClient,
    Origin,
    Request,
    RequestHead,
    Response,
    Tls,
    batch_item_error,
    content_of,
    encode_headers,
    end_of,
    is_compressed,
    parse_retry_after,
    uncompressed_content_of,
)
from penstock.services.pacing import Pacer, parse_rate_limit, parse_rate_limit_policy
from penstock.services.retry import is_retryable
from penstock.services.template import HeaderTemplate, field_of
from penstock.services.url_template import UrlTemplate, display_url
from penstock.support.json_encoding import describe_json_error
from penstock.support.tasks import Report

T = TypeVar("T")

RESPONSE_LIMIT = 1 << 20
"""Default maximum size of a response in bytes, decompressed."""

JSON_CONTENT = b"Content-Type: application/json\r\n"


@dataclass(frozen=True)
class HttpRequestSpec(DirectFunction):
    """The requests of a service over HTTP. Specs with equal fields are equal.

    `url` and the values of `headers` may contain fields of the value, `{orderId}`, and variables of the environment,
    `${PRICES}`. Without `client` the service creates one, and closes it when it is idle.
    """

    service: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    response: Callable[[Any], Any] | None = None
    """Converts the JSON of a response (default: returns it as it is, or None for an empty body)."""
    limit: int = RESPONSE_LIMIT
    """Maximum size of a response in bytes."""
    client: HttpClient | None = field(default=None, compare=False, repr=False)
    tls: Tls | None = None
    """The certificates of an https service; without it those of the system are trusted."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, compare=False, repr=False)
    deadline_header: str | None = None
    """The header in which the time that remains until the deadline is sent, if there is one."""
    pacer: Pacer = field(default_factory=Pacer, init=False, compare=False, repr=False)
    """Makes all calls of the service wait as its responses ask."""

    def __post_init__(self) -> None:
        authorized = any(name.lower() == "authorization" for name in self.header_templates)  # also checks all headers
        if self.url_template.has_credentials and authorized:
            raise ValueError(
                f"{self.service}: both the URL and the header Authorization contain a password: remove one"
            )

        if self.deadline_header is not None:
            HeaderTemplate(self.deadline_header, "")  # checks its name
            if self.deadline_header.lower() in map(str.lower, self.headers):
                raise ValueError(
                    f"{self.service}: {self.deadline_header} is in headers and is the deadline_header: remove one"
                )

    @cached_property
    def url_template(self) -> UrlTemplate:
        """The parsed URL."""
        return UrlTemplate(self.url, self.environment)

    @cached_property
    def header_templates(self) -> dict[str, HeaderTemplate]:
        """The parsed headers."""
        return {name: HeaderTemplate(name, text, self.environment) for name, text in self.headers.items()}

    @cached_property
    def connections(self) -> HttpClient:
        """The client that sends the requests."""
        return self.client or HttpClient()

    @cached_property
    def request_head(self) -> RequestHead:
        """What all requests have in common. Raises `InvalidItem` for a request that cannot be sent."""
        try:
            fixed = {name: each.render(None) for name, each in self.header_templates.items() if not each.has_fields}
            origin = Origin.parse(self.url_template.origin)
            return RequestHead(self.method, origin, fixed, self.tls, names=self.header_templates)
        except ValueError as error:
            raise InvalidItem(f"the request to {self.service} cannot be sent: {error}") from error

    @cached_property
    def header_fields(self) -> dict[str, HeaderTemplate]:
        """The headers that contain fields of the value."""
        return {name: template for name, template in self.header_templates.items() if template.has_fields}

    @cached_property
    def _rest_without_content(self) -> bytes:
        return self.request_head.head + end_of(self.method, None)

    def start_request(
        self, value: Any, content: bytes | None, parse: Callable[[bytes], Any], on_result: Report[Any]
    ) -> HttpAttempt:
        """Start the request for a value. `parse` makes the result from the body of the response."""
        target = self.url_template.target(value)
        is_fixed = content is None and not self.header_fields and self.deadline_header is None
        rest = self._rest_without_content if is_fixed else self._rest(value, content)
        attempt = HttpAttempt(self, parse, on_result)
        attempt.start(target, rest)
        return attempt

    def _rest(self, value: Any, content: bytes | None) -> bytes:
        """Return the part of a request after its first line."""
        headers = {name: template.render(value) for name, template in self.header_fields.items()}
        if self.deadline_header is not None and (seconds := remaining_seconds()) is not None:
            headers[self.deadline_header] = format_deadline(self.deadline_header, seconds)
        kind = b"" if content is None or self._has_content_type else JSON_CONTENT
        return self.request_head.head + encode_headers(headers) + kind + end_of(self.method, content)

    @cached_property
    def _has_content_type(self) -> bool:
        return any(name.lower() == "content-type" for name in self.header_templates)

    def connection_statistics(self) -> ConnectionStatistics:
        """Return how many connections there are now. Services with one `client` share those to the same host."""
        try:
            return self.connections.statistics(self.request_head)
        except InvalidItem:  # none of its requests can be sent
            return ConnectionStatistics()

    async def on_idle(self) -> None:
        """Close the client that the service has created."""
        if self.client is None:
            await self.connections.aclose()


@dataclass(frozen=True)
class HttpCall(HttpRequestSpec):
    """Sends a request for each value. `body` is sent as JSON; a function makes it from the value."""

    is_batch: ClassVar[bool] = False

    body: Any = None

    def start(self, value: Any, on_result: Report[Any]) -> HttpAttempt:
        body = None if self.body is None else _serialize(self.service, self._body_of, value)
        return self.start_request(value, body, self._parse, on_result)

    def _parse(self, content: bytes) -> Any:
        return _parse_response(self.service, content, self.response)

    def _body_of(self, value: Any) -> bytes | None:
        body = self.body(value) if callable(self.body) else self.body
        return None if body is None else msgspec.json.encode(body)


@dataclass(frozen=True)
class HttpBatchCall(HttpRequestSpec):
    """Sends a request for many values: a JSON array of them, or of their field `item_field`."""

    is_batch: ClassVar[bool] = True

    method: str = "POST"
    item_field: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url_template.has_fields or any(header.has_fields for header in self.header_templates.values()):
            raise ValueError(
                f"{self.service}: the URL and headers of a batch request cannot contain fields of a value, "
                f"got {display_url(self.url)}"
            )

    def start(self, value: list[Any], on_result: Report[Any]) -> HttpAttempt | None:
        results: list[Any] = [self._content_or_error(each) for each in value]
        sent = [number for number, content in enumerate(results) if type(content) is bytes]
        if not sent:
            on_result(results, None)
            return None

        content = b"[" + b",".join(results[number] for number in sent) + b"]"
        return self.start_request(None, content, partial(self._parse_items, results, sent), on_result)

    def _parse_items(self, results: list[Any], sent: list[int], content: bytes) -> list[Any]:
        """Return `results` with those of the values that were sent, which `content` has."""
        name = self.service
        items: list[Any] = _parse_response(name, content, partial(msgspec.convert, type=list[Any]))
        if len(items) != len(sent):
            raise InvalidCallResult(f"{name}: expected a response of {len(sent)} items, got {len(items)}")
        for number, item in zip(sent, items, strict=True):
            results[number] = _item_result(name, item, self.response)
        return results

    def _content_or_error(self, value: Any) -> bytes | InvalidItem:
        try:
            return _serialize(self.service, self._item_of, value)
        except InvalidItem as error:
            return error

    def _item_of(self, value: Any) -> bytes:
        return msgspec.json.encode(value if self.item_field is None else field_of(value, self.item_field))


class HttpAttempt:
    """A request of a service in flight, and the result that its response contains."""

    __slots__ = ("_deadline", "_decoding", "_on_result", "_parse", "_request", "_spec")

    def __init__(self, spec: HttpRequestSpec, parse: Callable[[bytes], Any], on_result: Report[Any]) -> None:
        self._spec = spec
        self._parse = parse
        self._on_result = on_result
        self._deadline = CALL_DEADLINE.get()
        self._request: Request | None = None
        self._decoding: asyncio.Task[bytes] | None = None

    def start(self, target: bytes, rest: bytes) -> None:
        """Start the request for a target, with the rest of what is sent."""
        spec = self._spec
        spec.pacer.in_flight += 1
        try:
            self._request = spec.connections.start(
                spec.service, spec.request_head, target, rest, spec.limit, self._responded
            )
        except BaseException:
            spec.pacer.in_flight -= 1
            raise

    def cancel(self) -> asyncio.Future[Any] | None:
        """Cancel the request, or the decompression of its response. Return a future to wait for if one is needed."""
        if self._decoding is not None:
            self._decoding.cancel()
            return self._decoding
        return None if self._request is None else self._request.cancel()

    def _responded(self, response: Response | None, error: BaseException | None) -> None:
        spec, self._request = self._spec, None  # the request refers to this object
        spec.pacer.in_flight -= 1
        if response is None:
            self._on_result(None, error)
        elif response.is_plain:
            self._end(response.body)
        else:
            _pace(spec.pacer, response)
            if is_compressed(response):
                decoding = content_of(spec.service, response, spec.limit)
                self._decoding = asyncio.get_running_loop().create_task(decoding, name=f"{spec.service}:decompress")
                self._decoding.add_done_callback(self._decoded)
                return
            try:
                content = uncompressed_content_of(spec.service, response, spec.limit)
            except Exception as error:
                self._on_result(None, error)
            else:
                self._end(content)

    def _decoded(self, decoding: asyncio.Task[bytes]) -> None:
        if decoding.cancelled():
            self._on_result(None, asyncio.CancelledError())
        elif (error := decoding.exception()) is not None:
            self._on_result(None, error)
        else:
            self._end(decoding.result())

    def _end(self, content: bytes) -> None:
        CALL_DEADLINE.set(self._deadline)  # in the context of the connection
        try:
            result = self._parse(content)
        except Exception as error:
            self._on_result(None, error)
        except BaseException as error:  # not from here: uvloop only logs an exit that a connection raises
            asyncio.get_running_loop().call_soon(self._on_result, None, error)
        else:
            self._on_result(result, None)


def _pace(pacer: Pacer, response: Response) -> None:
    """Make later calls wait if a response asks for it, by Retry-After or RateLimit."""
    if is_retryable_status(response.status):
        seconds = parse_retry_after(response.header(b"retry-after"))
        if seconds:
            pacer.pause(seconds, asyncio.get_running_loop().time())
    text = response.header(b"ratelimit")
    if text is not None and (limit := parse_rate_limit(text)) is not None:
        window = parse_rate_limit_policy(response.header(b"ratelimit-policy"))
        remaining, seconds = limit
        if seconds is None:
            seconds = 1.0 if window is None else window[1]
        pacer.limit(remaining, seconds, asyncio.get_running_loop().time(), window)


def is_retryable_http(error: BaseException) -> bool:
    """Return whether another attempt may succeed. Not if the value cannot be sent, nor if the response is invalid."""
    return not isinstance(error, (InvalidItem, InvalidCallResult)) and is_retryable(error)


def _serialize(service: str, serialize: Callable[[Any], T], value: Any) -> T:
    """Serialize a value. Raises `InvalidItem`, which is not retried: every attempt would fail."""
    try:
        return serialize(value)
    except InvalidItem:
        raise
    except Exception as error:
        raise InvalidItem(f"the value cannot be sent to {service}: {describe(error)}") from error


def _parse_response(service: str, content: bytes, convert: Callable[[Any], Any] | None) -> Any:
    """Parse and convert the body of a response. Raises `InvalidCallResult`."""
    try:
        content = content.removeprefix(BOM_UTF8)
        document = msgspec.json.decode(content) if content else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidCallResult(
            f"the response of {service} is not JSON: {describe_json_error(error, content)}"
        ) from error
    return _convert(service, document, convert)


def _convert(service: str, document: Any, convert: Callable[[Any], Any] | None) -> Any:
    try:
        return document if convert is None else convert(document)
    except Exception as error:
        raise InvalidCallResult(f"the response of {service} is not as expected: {describe(error)}") from error


def _item_result(service: str, item: Any, convert: Callable[[Any], Any] | None) -> Any:
    """Return the result for one value of many, or an exception for a value that failed."""
    if isinstance(item, dict) and "error" in item:
        return batch_item_error(service, cast("dict[str, Any]", item)["error"])
    try:
        return _convert(service, item, convert)
    except InvalidCallResult as error:
        return error
