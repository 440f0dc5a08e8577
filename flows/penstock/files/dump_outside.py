"""What a flow knows of the world outside, as plain data for its file: services, sources, outlets, and functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.errors import FlowError
from penstock.expressions import Assign, Expression, Fields
from penstock.files.quantities import show_duration, show_rate, show_size
from penstock.files.references import reference_of
from penstock.outlets import FileOutlet, Nowhere, Outlet, StandardOutput
from penstock.services import MAX_IN_FLIGHT, NONE, Backoff, Service, is_retryable
from penstock.services.http_service import (
    RESPONSE_LIMIT,
    HttpBatchCall,
    HttpCall,
    HttpRequestSpec,
    is_retryable_http,
)
from penstock.sources import LINE_LIMIT, Source
from penstock.sources.directory import STABLE_FOR, Directory
from penstock.sources.files import File
from penstock.sources.iterables import Generated, Ticks
from penstock.sources.standard import StandardInput

Plain = Any
"""What YAML and JSON can hold."""


def plain_service(name: str, service: Service) -> Plain:
    """A service under the name that it has in the file."""
    call = service.function
    if service.retry_on not in (is_retryable, is_retryable_http):
        raise FlowError(
            f"the service {service.name} decides itself what is worth another attempt; that has no word in a file"
        )
    own = _http(call) if isinstance(call, HttpRequestSpec) else {"call": reference_of(call)}
    return {
        **own,
        **said(
            {
                "name": None if service.name == name else service.name,
                "timeout": None if service.timeout == 30.0 else show_duration(service.timeout),
                "attempts": None if service.attempts == 1 else service.attempts,
                "backoff": _backoff(service.backoff),
                "max_in_flight": None if service.max_in_flight == MAX_IN_FLIGHT else service.max_in_flight,
                "rate": None if service.rate is None else show_rate(service.rate),
                "blocking": service.blocking or None,
            }
        ),
    }


def _http(call: HttpRequestSpec) -> dict[str, Plain]:
    answer = None if call.response is None else plain_function(call.response, "answer")
    more: dict[str, Plain] = {
        "headers": dict(call.headers) or None,
        "answer": answer,
        "limit": None if call.limit == RESPONSE_LIMIT else show_size(call.limit),
    }
    if isinstance(call, HttpCall) and call.body is not None:
        more["body"] = plain_function(call.body)
    if isinstance(call, HttpBatchCall):
        more["many"] = call.item_field or True
    return {call.method.lower(): call.url, **said(more)}


def _backoff(backoff: Backoff) -> Plain:
    if backoff == NONE:
        return "none"
    default = Backoff()
    return (
        said(
            {
                "first": None if backoff.first == default.first else show_duration(backoff.first),
                "factor": None if backoff.factor == default.factor else backoff.factor,
                "cap": None if backoff.cap == default.cap else show_duration(backoff.cap),
            }
        )
        or None
    )


def plain_function(function: Any, variable: str = "value") -> Plain:
    """What computes, as it is written: an expression, a mapping of them, or a name."""
    if isinstance(function, Expression):
        if function.variable != variable:
            raise FlowError(f"the expression {function.text!r} is about {function.variable}, not about {variable}")
        return function.text
    if isinstance(function, (Fields, Assign)):
        return {name: plain_function(expression, variable) for name, expression in function.fields.items()}
    return reference_of(function)


def plain_source(source: Source[Any], samples: Any) -> Plain:
    """A source of a worker, in a flow with these samples."""
    match source:
        case Generated(total, make) if make == samples:
            return {"generate": total}
        case Ticks(seconds, total):
            return said({"ticks": show_duration(seconds), "count": total})
        case StandardInput(limit):
            return {"stdin": True, **_unless(LINE_LIMIT, limit=limit)}
        case File(path, format, limit, delimiter):
            return {
                "file": path,
                "format": str(format),
                **_unless(LINE_LIMIT, limit=limit),
                **_unless(",", delimiter=delimiter),
            }
        case Directory(path, pattern, every, stable_for, done, format, limit, delimiter):
            return {
                "directory": path,
                **_unless("*", pattern=pattern),
                **({} if every == 1.0 else {"every": show_duration(every)}),
                **({} if stable_for == STABLE_FOR else {"stable_for": show_duration(stable_for)}),
                **_unless("done", done=done),
                **({} if format is None else {"format": str(format)}),
                **_unless(LINE_LIMIT, limit=limit),
                **_unless(",", delimiter=delimiter),
            }
        case _:
            raise FlowError(f"the source {source.name} cannot be written down")


def plain_outlet(outlet: Outlet) -> Plain:
    """A place that values are delivered to."""
    if outlet.name:
        raise FlowError(f"the outlet {outlet.name!r} has a name of its own, which no file can say")
    match outlet:
        case FileOutlet():
            fields = None if outlet.fields is None else list(outlet.fields)
            return said({"file": outlet.path, "format": str(outlet.format), "fields": fields})
        case StandardOutput() if outlet == StandardOutput():
            return "stdout"
        case Nowhere():
            return "nowhere"
        case _:
            raise FlowError(f"the outlet {outlet!r} cannot be written down")


def said(values: Mapping[str, Plain]) -> dict[str, Plain]:
    """The values without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def _unless(usual: Any, **value: Plain) -> dict[str, Plain]:
    return {name: show_size(one) if type(one) is int else one for name, one in value.items() if one != usual}
