"""What a flow file says of the world outside: services, sources and outlets, made of what was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, cast

from penstock.errors import FlowDefinitionError
from penstock.expressions import Expression, Fields
from penstock.flow.flow import Flow
from penstock.flowfile.forms.choices import Chosen
from penstock.flowfile.forms.record import Read
from penstock.flowfile.models import METHODS
from penstock.services import MAX_IN_FLIGHT, NONE, Backoff, Service, is_retryable
from penstock.services.http_service import RESPONSE_LIMIT, HttpBatchCall, HttpCall, is_retryable_http
from penstock.sinks import DiscardSink, FileSink, Sink, StdoutSink
from penstock.sources import Source, from_directory, from_file, from_stdin, generate, ticks

_HTTP_ONLY = ("headers", "body", "response", "limit", "batch")
_CALL_ONLY = ("blocking",)
_ARGUMENTS = {"poll_interval": "every", "processed_dir": "done"}
"""Keyword arguments of sources that are not named like the keys of a file."""


def service_of(name: str, chosen: Chosen, environment: Mapping[str, str]) -> Service:
    """The service that a file describes under a name; raises `FlowDefinitionError` or `ValueError`."""
    beside = chosen.beside
    title: str = beside["name"] or name
    over_http = chosen.kind in METHODS
    for word in _CALL_ONLY if over_http else _HTTP_ONLY:
        if word in beside:
            kind = "a function" if over_http else f"a service over HTTP ({', '.join(METHODS)})"
            raise FlowDefinitionError(f"{word} is for {kind}, and {name} is none")
    call: Callable[[Any], Any] = _http_call(title, chosen, environment) if over_http else chosen.value
    return Service(
        title,
        call,
        max_in_flight=beside["max_in_flight"] or MAX_IN_FLIGHT,
        timeout=beside["timeout"] or 30.0,
        attempts=beside["attempts"] or 1,
        backoff=_backoff(beside["backoff"]),
        retry_on=is_retryable_http if over_http else is_retryable,
        blocking=bool(beside["blocking"]),
        rate=beside["rate"],
    )


def _http_call(title: str, chosen: Chosen, environment: Mapping[str, str]) -> HttpCall | HttpBatchCall:
    beside = chosen.beside
    common: dict[str, Any] = {
        "service": title,
        "url": chosen.value,
        "method": chosen.kind.upper(),
        "headers": beside["headers"] or {},
        "response": called(beside["response"]),
        "limit": beside["limit"] or RESPONSE_LIMIT,
        "environment": environment,
    }
    many = beside["batch"]
    if not many:
        return HttpCall(**common, body=called(beside["body"]))
    if beside["body"] is not None:
        raise FlowDefinitionError("the body of a service that answers for many is the list of them; leave body out")
    return HttpBatchCall(**common, item_field=many if isinstance(many, str) else None)


def called(value: Any) -> Any:
    """A function, or fields that make an object."""
    return Fields(cast("dict[str, Expression]", value)) if isinstance(value, dict) else value


def _backoff(value: Any) -> Backoff | None:
    if value is None:
        return None
    if not isinstance(value, Read):
        return NONE
    return Backoff(**{name: value[name] for name in value if value[name] is not None})


def source_of(chosen: Chosen, flow: Flow[Any]) -> Source[Any]:
    """The source that a worker of a flow names; raises `FlowDefinitionError` or `ValueError`."""
    beside = chosen.beside
    for word, kinds in (
        ("format", ("file", "directory")),
        ("limit", ("file", "directory", "stdin")),
        ("delimiter", ("file", "directory")),
        ("pattern", ("directory",)),
        ("processed_dir", ("directory",)),
        ("poll_interval", ("directory",)),
        ("stable_for", ("directory",)),
        ("count", ("ticks",)),
    ):
        if word in beside and chosen.kind not in kinds:
            raise FlowDefinitionError(f"{word} is for a source {' or '.join(kinds)}, not for {chosen.kind}")
    options = {_ARGUMENTS.get(name, name): beside[name] for name in beside if beside[name] is not None}
    match chosen.kind:
        case "generate":
            if flow.sample_factory is None:
                raise FlowDefinitionError("generate makes samples of the flow: say with `samples:` what they are")
            return generate(chosen.value, flow.sample_factory)
        case "file":
            return from_file(chosen.value, **options)
        case "directory":
            arguments = {"every": "poll_interval", "done": "processed_dir"}
            return from_directory(chosen.value, **{arguments.get(name, name): options[name] for name in options})
        case "stdin":
            return from_stdin(**options)
        case "ticks":
            return ticks(chosen.value, **options)
        case _:
            return _source_by_call(chosen.value)


def _source_by_call(make: Callable[[], Any]) -> Source[Any]:
    try:
        source = make()
    except FlowDefinitionError:
        raise
    except Exception as error:
        raise FlowDefinitionError(f"the function for the source broke: {type(error).__name__}: {error}") from error
    if not _is_source(source):
        raise FlowDefinitionError(f"a function for a source has to give a Source, got {type(source).__name__}")
    return source


def _is_source(found: Any) -> TypeGuard[Source[Any]]:
    return isinstance(found, Source)


def outlet_of(value: Any) -> Sink:
    """The outlet that a step `to` names; raises `FlowDefinitionError` or `ValueError`."""
    if isinstance(value, str):
        return StdoutSink() if value == "stdout" else DiscardSink()
    beside: Read = value.beside
    return FileSink(value.value, format=beside["format"], fields=beside["fields"])
