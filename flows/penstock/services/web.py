"""Services that are called over HTTP: an address for each value, and statuses that decide what follows.

A 2xx is an answer. 408, 425, 429 and 5xx are worth another attempt, no earlier than `Retry-After` says (up to
the cap of the backoff). So is a connection that broke. Any other status is final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

import msgspec

from penstock.errors import Invalid, WrongAnswer, describe
from penstock.services.address import Address, field_of
from penstock.services.backoff import Backoff
from penstock.services.connections import HttpClient
from penstock.services.refusal import refused_item
from penstock.services.service import MAX_IN_FLIGHT, Service
from penstock.services.tries import worth_another

__all__ = ["ANSWER_LIMIT", "HttpClient", "http_batch_service", "http_service", "worth_asking_again"]

T = TypeVar("T")

ANSWER_LIMIT = 1 << 20
"""Bytes that an answer may have, unpacked, unless told otherwise."""

SENDS_JSON = {"Content-Type": "application/json"}


def http_service(
    name: str,
    url: str,
    *,
    client: HttpClient,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    answer: Callable[[Any], Any] | None = None,
    limit: int = ANSWER_LIMIT,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    backoff: Backoff | None = None,
) -> Service:
    """A service that is asked over HTTP about one value at a time.

    `url` may name fields of the value (see `Address`). `body` is sent as JSON: the same for all values, or
    made of each by a function. `answer` makes the answer of the JSON that came back (default: that itself, or
    None without content). `limit` is in bytes. The other arguments are those of `Service`.

    >>> pricing = http_service("pricing", "http://prices/{orderId}", client=client, timeout=2, attempts=3)
    """
    address = Address(url)
    every = {**({} if body is None else SENDS_JSON), **(headers or {})}

    def content_of(value: Any) -> bytes | None:
        content = body(value) if callable(body) else body
        return None if content is None else msgspec.json.encode(content)

    async def call(value: Any) -> Any:
        target, content = address.url(value), _made(name, content_of, value)
        received = await client.exchange(name, method, target, headers=every, body=content, limit=limit)
        return _answered(name, received, answer)

    return Service(
        name,
        call,
        max_in_flight=max_in_flight,
        timeout=timeout,
        attempts=attempts,
        backoff=backoff,
        retry_on=worth_asking_again,
    )


def http_batch_service(
    name: str,
    url: str,
    *,
    client: HttpClient,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    field: str | None = None,
    answer: Callable[[Any], Any] | None = None,
    limit: int = ANSWER_LIMIT,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    backoff: Backoff | None = None,
) -> Service:
    """A service that is asked over HTTP about many values at once; for the step `batch`.

    Sends a JSON array of the values, or of their `field`, and expects an array of the same length and order.
    An item `{"error": {"type": …, "message": …}}` fails its element alone, and so does a value that cannot be
    sent. `answer` makes the answer of one item.

    >>> pricing = http_batch_service("pricing", "http://prices", client=client, field="orderId")
    >>> step = batch(pricing, size=50, seconds=0.02)
    """
    target = Address(url).url({})
    every = {**SENDS_JSON, **(headers or {})}

    def content_of(value: Any) -> bytes:
        return msgspec.json.encode(value if field is None else field_of(value, field))

    def content_or_error(value: Any) -> bytes | Invalid:
        try:
            return _made(name, content_of, value)
        except Invalid as error:
            return error

    async def call(values: list[Any]) -> list[Any]:
        answers: list[Any] = [content_or_error(value) for value in values]
        sent = [number for number, content in enumerate(answers) if type(content) is bytes]
        if not sent:
            return answers

        content = b"[" + b",".join(answers[number] for number in sent) + b"]"
        received = await client.exchange(name, method, target, headers=every, body=content, limit=limit)
        items: list[Any] = _answered(name, received, partial(msgspec.convert, type=list[Any]))
        if len(items) != len(sent):
            raise WrongAnswer(f"{name} was asked about {len(sent)} values and answered for {len(items)}")
        for number, item in zip(sent, items, strict=True):
            answers[number] = _item(name, item, answer)
        return answers

    return Service(
        name,
        call,
        max_in_flight=max_in_flight,
        timeout=timeout,
        attempts=attempts,
        backoff=backoff,
        retry_on=worth_asking_again,
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
        said = msgspec.json.decode(content) if content else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongAnswer(f"{service} answered with what is not JSON: {describe(error)}") from error
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
