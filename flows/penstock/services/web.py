"""Services that are called over HTTP: an address for each value, and statuses that decide what follows.

A 2xx is an answer. 408, 425, 429 and 5xx are worth another attempt, no earlier than `Retry-After` says (up to
the cap of the backoff). So is a connection that broke. Any other status is final.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar, cast

import msgspec

from penstock.errors import Invalid, WrongAnswer, describe
from penstock.json_errors import describe_json_error
from penstock.services.address import Address, Header, field_of
from penstock.services.backoff import Backoff
from penstock.services.connections import HttpClient
from penstock.services.heads import shown
from penstock.services.refusal import refused_item
from penstock.services.service import MAX_IN_FLIGHT, Service
from penstock.services.tries import worth_another

__all__ = [
    "ANSWER_LIMIT",
    "HttpBatchCall",
    "HttpCall",
    "HttpClient",
    "http_batch_service",
    "http_service",
    "worth_asking_again",
]

T = TypeVar("T")

ANSWER_LIMIT = 1 << 20
"""Bytes that an answer may have, unpacked, unless told otherwise."""

SENDS_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Call:
    """What both kinds of calls over HTTP have in common. Equal calls ask the same of the same address.

    `url` and the values of `headers` may name fields of the value, `{orderId}`, and variables of the environment,
    `${PRICES}`. Without a client of its own a call makes one, and closes it when the service is at rest.
    """

    service: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    answer: Callable[[Any], Any] | None = None
    """Makes the answer of the JSON that came back (default: that itself, or None without content)."""
    limit: int = ANSWER_LIMIT
    """Bytes that an answer may have."""
    client: HttpClient | None = field(default=None, compare=False, repr=False)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, compare=False, repr=False)

    def __post_init__(self) -> None:
        authorized = any(name.lower() == "authorization" for name in self.lines)  # checks the headers, as it reads them
        if self.address.has_credentials and authorized:
            raise ValueError(
                f"{self.service} has a password in its address and the header Authorization; leave out one of them"
            )

    @cached_property
    def address(self) -> Address:
        """The address, ready to be filled in."""
        return Address(self.url, self.environment)

    @cached_property
    def lines(self) -> dict[str, Header]:
        """The headers, ready to be filled in."""
        return {name: Header(name, text, self.environment) for name, text in self.headers.items()}

    @cached_property
    def connections(self) -> HttpClient:
        """The connections that are used."""
        return self.client or HttpClient()

    async def exchange(self, value: Any, content: bytes | None) -> bytes:
        """Send the request for a value; gives the body of the answer."""
        headers = {name: line.text(value) for name, line in self.lines.items()}
        if content is not None:
            headers = SENDS_JSON | headers
        return await self.connections.exchange(
            self.service, self.method, self.address.url(value), headers=headers, body=content, limit=self.limit
        )

    async def rest(self) -> None:
        """Nobody uses the service any more."""
        if self.client is None:
            await self.connections.aclose()


@dataclass(frozen=True)
class HttpCall(Call):
    """Asks about one value at a time. `body` is sent as JSON: the same for all, or made of each by a function."""

    for_many: ClassVar[bool] = False

    body: Any = None

    async def __call__(self, value: Any) -> Any:
        received = await self.exchange(value, _made(self.service, self._content_of, value))
        return _answered(self.service, received, self.answer)

    def _content_of(self, value: Any) -> bytes | None:
        content = self.body(value) if callable(self.body) else self.body
        return None if content is None else msgspec.json.encode(content)


@dataclass(frozen=True)
class HttpBatchCall(Call):
    """Asks about many values at once: sends a JSON array of them, or of one `part` (a field) of each."""

    for_many: ClassVar[bool] = True

    method: str = "POST"
    part: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address.has_fields or any(line.has_fields for line in self.lines.values()):
            raise ValueError(
                f"{self.service} is asked about many values at once, so no field has a place in {shown(self.url)}"
            )

    async def __call__(self, values: list[Any]) -> list[Any]:
        name = self.service
        answers: list[Any] = [self._content_or_error(value) for value in values]
        sent = [number for number, content in enumerate(answers) if type(content) is bytes]
        if not sent:
            return answers

        received = await self.exchange(None, b"[" + b",".join(answers[number] for number in sent) + b"]")
        items: list[Any] = _answered(name, received, partial(msgspec.convert, type=list[Any]))
        if len(items) != len(sent):
            raise WrongAnswer(f"{name} was asked about {len(sent)} values and answered for {len(items)}")
        for number, item in zip(sent, items, strict=True):
            answers[number] = _item(name, item, self.answer)
        return answers

    def _content_or_error(self, value: Any) -> bytes | Invalid:
        try:
            return _made(self.service, self._content_of, value)
        except Invalid as error:
            return error

    def _content_of(self, value: Any) -> bytes:
        return msgspec.json.encode(value if self.part is None else field_of(value, self.part))


def http_service(
    name: str,
    url: str,
    *,
    client: HttpClient | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    answer: Callable[[Any], Any] | None = None,
    limit: int = ANSWER_LIMIT,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    backoff: Backoff | None = None,
    rate: float | None = None,
) -> Service:
    """A service that is asked over HTTP about one value at a time; see `HttpCall`, and `Service` for the rest.

    >>> pricing = http_service("pricing", "http://prices/{orderId}", timeout=2, attempts=3)
    """
    call = HttpCall(name, url, method, headers or {}, answer, limit, client, body=body)
    return Service(
        name,
        call,
        max_in_flight=max_in_flight,
        timeout=timeout,
        attempts=attempts,
        backoff=backoff,
        retry_on=worth_asking_again,
        rate=rate,
    )


def http_batch_service(
    name: str,
    url: str,
    *,
    client: HttpClient | None = None,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    field: str | None = None,
    answer: Callable[[Any], Any] | None = None,
    limit: int = ANSWER_LIMIT,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    backoff: Backoff | None = None,
    rate: float | None = None,
) -> Service:
    """A service that is asked over HTTP about many values at once; for the step `batch`.

    Sends a JSON array of the values, or of their `field`, and expects an array of the same length and order.
    An item `{"error": {"type": …, "message": …}}` fails its element alone, and so does a value that cannot be
    sent. `answer` makes the answer of one item.

    >>> pricing = http_batch_service("pricing", "http://prices", field="orderId")
    >>> step = batch(pricing, size=50, seconds=0.02)
    """
    call = HttpBatchCall(name, url, method, headers or {}, answer, limit, client, part=field)
    return Service(
        name,
        call,
        max_in_flight=max_in_flight,
        timeout=timeout,
        attempts=attempts,
        backoff=backoff,
        retry_on=worth_asking_again,
        rate=rate,
    )


def worth_asking_again(error: BaseException) -> bool:
    """Whether another attempt may help: not if the value is no question, nor if the answer is no answer."""
    return not isinstance(error, (Invalid, WrongAnswer)) and worth_another(error)


def _made(service: str, make: Callable[[Any], T], value: Any) -> T:
    """What is sent for a value; if it cannot be made, that is the value's fault, now and at every attempt."""
    try:
        return make(value)
    except Invalid:
        raise
    except Exception as error:
        raise Invalid(f"the value cannot be sent to {service}: {describe(error)}") from error


def _answered(service: str, content: bytes, answer: Callable[[Any], Any] | None) -> Any:
    """The answer that a body holds."""
    try:
        content = content.removeprefix(BOM_UTF8)
        said = msgspec.json.decode(content) if content else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongAnswer(f"{service} answered with what is not JSON: {describe_json_error(error, content)}") from error
    return _understood(service, said, answer)


def _understood(service: str, said: Any, answer: Callable[[Any], Any] | None) -> Any:
    try:
        return said if answer is None else answer(said)
    except Exception as error:
        raise WrongAnswer(f"{service} answered something unexpected: {describe(error)}") from error


def _item(service: str, item: Any, answer: Callable[[Any], Any] | None) -> Any:
    """The answer for one value of many; an exception when there is none for it."""
    if isinstance(item, dict) and "error" in item:
        return refused_item(service, cast("dict[str, Any]", item)["error"])
    try:
        return _understood(service, item, answer)
    except WrongAnswer as error:
        return error
