"""What a flow knows of the world outside, as plain data for its file: services, sources, outlets, and functions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from penstock.errors import FlowDefinitionError
from penstock.expressions import Assign, Expression, Fields
from penstock.flowfile.quantities import show_duration, show_rate, show_size
from penstock.formats.ndjson_reader import LINE_LIMIT
from penstock.services import MAX_IN_FLIGHT, NONE, Backoff, Service, is_retryable
from penstock.services.http_service import RESPONSE_LIMIT, HttpBatchCall, HttpCall, HttpRequestSpec, is_retryable_http
from penstock.sinks import DiscardSink, FileSink, Sink, StdoutSink
from penstock.sources import Source
from penstock.sources.byte_stream import StdinSource
from penstock.sources.directory import STABLE_FOR, Directory
from penstock.sources.file import File
from penstock.sources.iterables import Generated, Ticks

Plain = Any
"""What YAML and JSON can hold."""


def to_plain_service(name: str, service: Service) -> Plain:
    """A service under the name that it has in the file."""
    call = service.function
    if service.retry_on not in (is_retryable, is_retryable_http):
        raise FlowDefinitionError(
            f"the service {service.name} decides itself what is worth another attempt; that has no word in a file"
        )
    own = _http(call) if isinstance(call, HttpRequestSpec) else {"call": reference_of(call)}
    return {
        **own,
        **drop_none(
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
    response = None if call.response is None else to_plain_function(call.response, "response")
    more: dict[str, Plain] = {
        "headers": dict(call.headers) or None,
        "response": response,
        "limit": None if call.limit == RESPONSE_LIMIT else show_size(call.limit),
    }
    if isinstance(call, HttpCall) and call.body is not None:
        more["body"] = to_plain_function(call.body)
    if isinstance(call, HttpBatchCall):
        more["batch"] = call.item_field or True
    return {call.method.lower(): call.url, **drop_none(more)}


def _backoff(backoff: Backoff) -> Plain:
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


def to_plain_function(function: Any, variable: str = "value") -> Plain:
    """What computes, as it is written: an expression, a mapping of them, or a name."""
    if isinstance(function, Expression):
        if function.variable != variable:
            raise FlowDefinitionError(
                f"the expression {function.text!r} is about {function.variable}, not about {variable}"
            )
        return function.text
    if isinstance(function, (Fields, Assign)):
        return {name: to_plain_function(expression, variable) for name, expression in function.fields.items()}
    return reference_of(function)


def to_plain_source(source: Source[Any], samples: Any) -> Plain:
    """A source of a worker, in a flow with these samples."""
    match source:
        case Generated(total, make) if make == samples:
            return {"generate": total}
        case Ticks(seconds, total):
            return drop_none({"ticks": show_duration(seconds), "count": total})
        case StdinSource(limit):
            return {"stdin": True, **omit_default(LINE_LIMIT, limit=limit)}
        case File(path, format, limit, delimiter):
            return {
                "file": path,
                "format": str(format),
                **omit_default(LINE_LIMIT, limit=limit),
                **omit_default(",", delimiter=delimiter),
            }
        case Directory(path, pattern, every, stable_for, done, format, limit, delimiter):
            return {
                "directory": path,
                **omit_default("*", pattern=pattern),
                **({} if every == 1.0 else {"poll_interval": show_duration(every)}),
                **({} if stable_for == STABLE_FOR else {"stable_for": show_duration(stable_for)}),
                **omit_default("done", processed_dir=done),
                **({} if format is None else {"format": str(format)}),
                **omit_default(LINE_LIMIT, limit=limit),
                **omit_default(",", delimiter=delimiter),
            }
        case _:
            raise FlowDefinitionError(f"the source {source.name} cannot be written down")


def to_plain_sink(outlet: Sink) -> Plain:
    """A place that values are delivered to."""
    if outlet.name:
        raise FlowDefinitionError(f"the outlet {outlet.name!r} has a name of its own, which no file can say")
    match outlet:
        case FileSink():
            fields = None if outlet.fields is None else list(outlet.fields)
            return drop_none({"file": outlet.path, "format": str(outlet.format), "fields": fields})
        case StdoutSink() if outlet == StdoutSink():
            return "stdout"
        case DiscardSink():
            return "discard"
        case _:
            raise FlowDefinitionError(f"the outlet {outlet!r} cannot be written down")


def drop_none(values: Mapping[str, Plain]) -> dict[str, Plain]:
    """The values without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def omit_default(usual: Any, **value: Plain) -> dict[str, Plain]:
    return {name: show_size(one) if type(one) is int else one for name, one in value.items() if one != usual}


def reference_of(function: Any) -> str:
    """Return the `module:name` of a Python object; raise `FlowDefinitionError` if it cannot be imported by that
    name.
    """
    module = str(getattr(function, "__module__", "__main__"))
    name = str(getattr(function, "__qualname__", "?"))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function or module == "__main__":
        raise FlowDefinitionError(
            f"{function!r} cannot be imported by its name; define it with def or class at the top of a module, "
            "or write it as an expression"
        )
    return f"{module}:{name}"
