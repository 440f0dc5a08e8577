"""Describe steps, services, sinks, sources and stores in a few words each, for display in a graph."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from penstock.deadletters import DeadLetterStore
from penstock.expressions import Assign, Expression, Fields
from penstock.flow.flow import Flow
from penstock.flow.serving import Worker
from penstock.runtime.schedule import Once
from penstock.services import Service
from penstock.sinks import Sink
from penstock.steps.step import NamedStep, Way

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^/\s]+@")


def step_details(step: NamedStep) -> tuple[str, ...]:
    """Describe the options of a step, except its kind, its name, its services and its sinks."""
    options = step.options
    match step.kind:
        case "map":
            return function_details(options["function"], step.name)
        case "filter":
            return tuple(f"only {text}" for text in function_details(options["predicate"], step.name))
        case "fail":
            when, reason = options["when"], options["reason"]
            condition = () if when is None else tuple(f"if {text}" for text in function_details(when, step.name))
            return (*condition, f"{options['type']}: {reason}" if isinstance(reason, str) else options["type"])
        case "tap":
            return function_details(options["look"], step.name)
        case "flat_map":
            return (*function_details(options["function"], step.name), f"max {options['max_parts']:,} parts")
        case "map_async":
            return ("in order",) if options.get("ordered") else ()
        case "enrich":
            return function_details(options["merge"], step.name) if options.get("merge") else ()
        case "batch":
            return (f"size {options['size']}, max wait {format_duration(options['max_wait'])}",)
        case "throttle":
            burst = options.get("burst", 1)
            return (f"{options['rate']:g}/s", *((f"burst {burst}",) if burst > 1 else ()))
        case "through":
            return function_details(options["operator"], step.name)
        case _:
            return ()


def branch_details(branch: Way) -> tuple[str, ...]:
    """Describe which values take a branch."""
    return ("otherwise",) if branch.when is None else function_details(branch.when, branch.name)


def service_details(service: Service) -> tuple[str, ...]:
    """Describe the URL and the limits of a service."""
    url = getattr(service.function, "url", None)
    return (
        *((hide_password(url),) if isinstance(url, str) else ()),
        f"max {service.max_in_flight} in flight",
        f"timeout {format_duration(service.timeout)}",
        *((f"attempts {service.attempts}",) if service.attempts > 1 else ()),
    )


def sink_details(sink: Sink) -> tuple[str, ...]:
    """Describe the class of a sink, and its URL or path if it has one."""
    target = getattr(sink, "url", None) or getattr(sink, "path", None)
    return (split_words(type(sink).__name__), *((hide_password(str(target)),) if target is not None else ()))


def worker_details(worker: Worker) -> tuple[str, ...]:
    """Describe the source and the schedule of a worker."""
    return (worker.source.name, schedule_label(worker.schedule))


def decode_details(flow: Flow[Any]) -> tuple[str, ...]:
    """Describe the items of a flow: their type and their key."""
    item = "any JSON" if flow.item is None else getattr(flow.item, "__name__", str(flow.item))
    return (item, *((f"key {flow.key}",) if flow.key else ()))


def store_label(store: str | DeadLetterStore) -> str:
    """Return the URL of a dead-letter store as it is written in the flow, without a password."""
    url = store if isinstance(store, str) else getattr(store, "url", None)
    return hide_password(url or split_words(type(store).__name__))


def window_label(flow: Flow[Any]) -> str:
    """Describe how much one run holds in flight."""
    return f"window {flow.elements:,} elements, {format_size(flow.bytes)}"


def function_details(function: object, name: str = "") -> tuple[str, ...]:
    """Return the text of an expression, or the name of a Python function if it differs from `name`."""
    match function:
        case Expression():
            return (function.text,)
        case Fields() | Assign():
            return tuple(f"{key} = {expression.text}" for key, expression in function.fields.items())
        case _:
            function_name = getattr(function, "__name__", "<lambda>")
            return () if function_name in ("<lambda>", name) else (str(function_name),)


def schedule_label(schedule: object) -> str:
    """Describe a schedule by the name of its class and its options: `every 1h`, `cron 0 6 * * *`."""
    if isinstance(schedule, Once) or not dataclasses.is_dataclass(schedule):
        return type(schedule).__name__.lower()
    options = [getattr(schedule, field.name) for field in dataclasses.fields(schedule) if field.init]
    texts = [
        format_duration(value) if type(value) in (int, float) else str(value) for value in options if value is not None
    ]
    return " ".join([type(schedule).__name__.lower(), *texts])


def kind_label(kind: str) -> str:
    """Write a kind of step in words: `flat_map` becomes `flat map`."""
    return kind.replace("_", " ")


def hide_password(url: str) -> str:
    """Replace the password in a URL by `…`."""
    return _PASSWORD.sub(r"\1:…@", url)


def format_duration(seconds: float) -> str:
    """Format a duration.

    >>> format_duration(0.02), format_duration(2), format_duration(90)
    ('20ms', '2s', '1m 30s')
    """
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    if seconds < 60 or seconds != int(seconds):
        return f"{seconds:g}s"
    parts = ((int(seconds) // 3600, "h"), (int(seconds) // 60 % 60, "m"), (int(seconds) % 60, "s"))
    return " ".join(f"{number}{unit}" for number, unit in parts if number)


def format_size(count: int) -> str:
    """Format a number of bytes.

    >>> format_size(100), format_size(16 * 1024 * 1024)
    ('100 B', '16 MiB')
    """
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.4g} {unit}"


def split_words(name: str) -> str:
    """Write the name of a class in words: `FileSink` becomes `file sink`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
