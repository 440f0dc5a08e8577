"""Services of flow files: their forms, how they are made, and how they are dumped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from penstock.errors import FlowDefinitionError
from penstock.flowfile.breaker import BREAKER, dump_breaker
from penstock.flowfile.field_types import Duration, Rate, Reference, Size, function_or_fields
from penstock.flowfile.forms.choices import Chosen, Either, OneKey
from penstock.flowfile.forms.containers import MapOf
from penstock.flowfile.forms.form import Form
from penstock.flowfile.forms.record import Located, Record, optional
from penstock.flowfile.forms.scalars import Boolean, Integer, Number, Text, word
from penstock.flowfile.plain import Plain, drop_none, dump_function, reference_of
from penstock.flowfile.quantities import show_duration, show_rate, show_size
from penstock.services import (
    DEFAULT_BREAKER,
    MAX_IN_FLIGHT,
    NONE,
    TIMEOUT,
    AdaptiveLimit,
    Backoff,
    Breaker,
    Service,
    is_retryable,
)
from penstock.services.http_client import Tls
from penstock.services.http_service import RESPONSE_LIMIT, HttpBatchCall, HttpCall, HttpRequestSpec, is_retryable_http

METHODS = ("get", "post", "put", "patch", "delete")

IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
SERVICE_NAME = Text(
    pattern=IDENTIFIER,
    noun="name",
    allowed="letters, digits and _, with no digit first",
    description="The name of a service",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffOptions(Located):
    first: float | None = optional(Duration(), "The longest wait before the second attempt (50ms)")
    factor: float | None = optional(Number(min=1), "How many times longer each further wait may be (2)")
    cap: float | None = optional(Duration(), "The longest wait before any attempt; it also limits Retry-After (10s)")

    def backoff(self) -> Backoff:
        """Make the backoff; keys that are left out have the defaults of `Backoff`."""
        given = {"first": self.first, "factor": self.factor, "cap": self.cap}
        return Backoff(**{name: value for name, value in given.items() if value is not None})


BACKOFF: Form[Backoff] = Either(
    word({"none": "No wait: the next attempt follows at once"}).then(lambda _: NONE),
    Record(BackoffOptions).then(BackoffOptions.backoff),
)

URL = Text(description="The URL; {field} is replaced by a field of the value, ${NAME:-default} by a variable")


BATCH: Form[bool | str] = Either(cast("Form[Any]", Boolean()), Text())


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions(Located):
    ca: str | None = optional(
        Text(), "The file with the certificates of the authorities to trust, instead of those of the system"
    )
    cert: str | None = optional(Text(), "The file with the certificate of the client")
    key: str | None = optional(Text(), "The file with its private key, if that is not in the file of cert")


TLS: Form[Tls] = Record(TlsOptions).then(lambda options: Tls(options.ca, options.cert, options.key))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimitOptions(Located):
    min: int | None = optional(Integer(min=1), "The limit at first, and the lowest (4)")
    max: int | None = optional(Integer(min=1), "The highest limit (256)")

    def limit(self) -> AdaptiveLimit:
        """Make the limit; keys that are left out have the defaults of `AdaptiveLimit`."""
        given = {"min": self.min, "max": self.max}
        return AdaptiveLimit(**{name: value for name, value in given.items() if value is not None})


MAX_IN_FLIGHT_FORM: Form[int | AdaptiveLimit] = Either(
    cast("Form[Any]", Integer(min=1)), Record(AdaptiveLimitOptions).then(AdaptiveLimitOptions.limit)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions(Located):
    name: str | None = optional(Text(), "The name in metrics and logs, if it differs from the one here")
    timeout: float | None = optional(Duration(), "The time for one attempt (30s)")
    attempts: int | None = optional(Integer(min=1), "How often a call is tried, including the first time (1)")
    backoff: Backoff | None = optional(
        BACKOFF, "The wait between attempts: random, up to a limit that grows with each attempt; none: no wait"
    )
    max_in_flight: int | AdaptiveLimit | None = optional(
        MAX_IN_FLIGHT_FORM,
        "How many calls may run at once, over all runs (256); or a range: as many in it as the service can handle",
    )
    rate: float | None = optional(Rate(), "How many calls may start per second, over all runs: 10/s, 600/m")
    breaker: Breaker | str | None = optional(
        BREAKER, "When calls are held because the service is down; none: never (after 20 failures in a row)"
    )
    blocking: bool | None = optional(Boolean(), "Whether the function blocks; it then runs in separate threads")
    headers: dict[str, str] | None = optional(
        MapOf(Text()), "Headers of each request; {field} and ${NAME} are replaced"
    )
    body: Any = optional(function_or_fields(), "The body of the request, sent as JSON")
    response: Any = optional(function_or_fields("response"), "Which part of the JSON response is the result")
    limit: int | None = optional(Size(), "How many bytes a response may have (1MiB)")
    tls: Tls | None = optional(TLS, "The certificates of an https service, in PEM files")
    deadline_header: str | None = optional(
        Text(), "The header in which the time that remains until the deadline is sent: Penstock-Deadline"
    )
    batch: bool | str | None = optional(
        BATCH, "One request for many values: true, or the field of each value that is sent"
    )


SERVICE = OneKey(
    {
        "call": Reference(description="A Python function, module:name; plain, or a coroutine function"),
        **dict.fromkeys(METHODS, URL),
    },
    beside=ServiceOptions,
)
"""A service: a function outside the flow that steps call."""

SERVICES = MapOf(SERVICE, keys=SERVICE_NAME)

_HTTP_ONLY = ("headers", "body", "response", "limit", "tls", "deadline_header", "batch")
_CALL_ONLY = ("blocking",)


def make_service(name: str, chosen: Chosen[ServiceOptions], environment: Mapping[str, str]) -> Service:
    """Make the service that a file describes under a name. Raises `FlowDefinitionError` or `ValueError`."""
    options = chosen.beside
    title = options.name or name
    over_http = chosen.kind in METHODS
    for key in _CALL_ONLY if over_http else _HTTP_ONLY:
        if options.has(key):
            kind = "services with call" if over_http else f"services with {', '.join(METHODS)}"
            raise FlowDefinitionError(f"{key}: only for {kind}; {name} has {chosen.kind}")
    call: Callable[[Any], Any] = _http_call(title, chosen, environment) if over_http else chosen.value
    return Service(
        title,
        call,
        max_in_flight=options.max_in_flight or MAX_IN_FLIGHT,
        timeout=options.timeout or TIMEOUT,
        attempts=options.attempts or 1,
        backoff=options.backoff,
        retry_on=is_retryable_http if over_http else is_retryable,
        blocking=bool(options.blocking),
        rate=options.rate,
        breaker=_breaker_of(name, chosen),
    )


def _breaker_of(name: str, chosen: Chosen[ServiceOptions]) -> Breaker | None:
    breaker = chosen.beside.breaker
    if breaker is None:
        return DEFAULT_BREAKER
    if isinstance(breaker, str):
        return None
    if breaker.errors and chosen.kind != "call":
        raise FlowDefinitionError(f"breaker: errors: only for services with call; {name} has {chosen.kind}: remove it")
    return breaker


def _http_call(title: str, chosen: Chosen[ServiceOptions], environment: Mapping[str, str]) -> HttpCall | HttpBatchCall:
    options = chosen.beside
    common: dict[str, Any] = {
        "service": title,
        "url": chosen.value,
        "method": chosen.kind.upper(),
        "headers": options.headers or {},
        "response": options.response,
        "limit": options.limit or RESPONSE_LIMIT,
        "tls": options.tls,
        "deadline_header": options.deadline_header,
        "environment": environment,
    }
    if not options.batch:
        return HttpCall(**common, body=options.body)
    if options.body is not None:
        raise FlowDefinitionError("body: not allowed with batch; the body is the list of values")
    return HttpBatchCall(**common, item_field=options.batch if isinstance(options.batch, str) else None)


def dump_service(name: str, service: Service) -> Plain:
    """Return a service under its name in the file as plain data."""
    call = service.function
    if service.retry_on not in (is_retryable, is_retryable_http):
        raise FlowDefinitionError(
            f"service {service.name} has its own retry_on, which a flow file cannot contain; leave it out"
        )
    own = _dump_http(call) if isinstance(call, HttpRequestSpec) else {"call": reference_of(call)}
    return {
        **own,
        **drop_none(
            {
                "name": None if service.name == name else service.name,
                "timeout": None if service.timeout == TIMEOUT else show_duration(service.timeout),
                "attempts": None if service.attempts == 1 else service.attempts,
                "backoff": _dump_backoff(service.backoff),
                "max_in_flight": _dump_max_in_flight(service),
                "rate": None if service.rate is None else show_rate(service.rate),
                "breaker": dump_breaker(service.breaker, reference_of),
                "blocking": service.blocking or None,
            }
        ),
    }


def _dump_http(call: HttpRequestSpec) -> dict[str, Plain]:
    more: dict[str, Plain] = {
        "headers": dict(call.headers) or None,
        "response": None if call.response is None else dump_function(call.response, "response"),
        "limit": None if call.limit == RESPONSE_LIMIT else show_size(call.limit),
        "tls": None if call.tls is None else drop_none({"ca": call.tls.ca, "cert": call.tls.cert, "key": call.tls.key}),
        "deadline_header": call.deadline_header,
    }
    if isinstance(call, HttpCall) and call.body is not None:
        more["body"] = dump_function(call.body)
    if isinstance(call, HttpBatchCall):
        more["batch"] = call.item_field or True
    return {call.method.lower(): call.url, **drop_none(more)}


def _dump_max_in_flight(service: Service) -> Plain:
    if service.adaptive_limit is not None:
        return {"min": service.adaptive_limit.min, "max": service.adaptive_limit.max}
    return None if service.max_in_flight == MAX_IN_FLIGHT else service.max_in_flight


def _dump_backoff(backoff: Backoff) -> Plain:
    if backoff == NONE:
        return "none"
    default = Backoff()
    return (
        drop_none(
            {
                "first": None if backoff.first == default.first else show_duration(backoff.first),
                "factor": None if backoff.factor == default.factor else backoff.factor,
                "cap": None if backoff.cap == default.cap else show_duration(backoff.cap),
            }
        )
        or None
    )
