"""The short facts of a picture: what a step, a service, a source or a store is, in a few words each."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from penstock.deadletters import DeadLetterStore
from penstock.expressions import Assign, Expression, Fields
from penstock.flow import Flow, Worker
from penstock.outlets import Outlet
from penstock.runtime.schedule import Once
from penstock.services import Service
from penstock.steps import NamedStep, Way

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^/\s]+@")


def step_facts(step: NamedStep) -> tuple[str, ...]:
    """What is worth knowing about a step, beside its kind, its name and what it calls."""
    options = step.options
    match step.kind:
        case "map":
            return told(options["function"], but=step.name)
        case "filter":
            return tuple(f"only {fact}" for fact in told(options["predicate"], but=step.name))
        case "fail":
            when, reason = options["when"], options["reason"]
            which = () if when is None else tuple(f"if {fact}" for fact in told(when, but=step.name))
            return (*which, f"{options['type']}: {reason}" if isinstance(reason, str) else options["type"])
        case "tap":
            return told(options["look"], but=step.name)
        case "flat_map":
            return (*told(options["function"], but=step.name), f"at most {options['max_parts']:,} parts")
        case "map_async":
            return ("in order",) if options.get("ordered") else ()
        case "enrich":
            return told(options["merge"], but=step.name) if options.get("merge") else ()
        case "batch":
            return (f"size {options['size']} within {duration(options['seconds'])}",)
        case "throttle":
            burst = options.get("burst", 1)
            return (f"{options['rate']:g}/s", *((f"bursts of {burst}",) if burst > 1 else ()))
        case "through":
            return told(options["operator"], but=step.name)
        case _:
            return ()


def way_facts(way: Way) -> tuple[str, ...]:
    """Which values take a branch."""
    return ("everything else",) if way.when is None else told(way.when, but=way.name)


def service_facts(service: Service) -> tuple[str, ...]:
    """What a service is asked with, and how it is protected."""
    url = getattr(service.function, "url", None)
    return (
        *((address(url),) if isinstance(url, str) else ()),
        f"max {service.max_in_flight} in flight",
        f"timeout {duration(service.timeout)}",
        *((f"attempts {service.attempts}",) if service.attempts > 1 else ()),
    )


def outlet_facts(outlet: Outlet) -> tuple[str, ...]:
    """What kind of place an outlet is, and where, if it says so."""
    where = getattr(outlet, "url", None) or getattr(outlet, "path", None)
    return (spaced(type(outlet).__name__), *((address(str(where)),) if where is not None else ()))


def worker_facts(worker: Worker) -> tuple[str, ...]:
    """Where a worker's items come from, and when it runs."""
    return (worker.source.name, scheduled(worker.schedule))


def decode_facts(flow: Flow[Any]) -> tuple[str, ...]:
    """What comes in."""
    item = "any JSON" if flow.item is None else getattr(flow.item, "__name__", str(flow.item))
    return (item, *((f"key {flow.key}",) if flow.key else ()))


def store_name(store: str | DeadLetterStore) -> str:
    """Where dead letters are kept, as it is written; a password that is written there stays out of the picture."""
    return address(store if isinstance(store, str) else getattr(store, "url", None) or spaced(type(store).__name__))


def window_fact(flow: Flow[Any]) -> str:
    """What one run may have under way."""
    return f"window {flow.elements:,} elements, {size(flow.bytes)}"


def told(function: object, but: str = "") -> tuple[str, ...]:
    """What a function does as far as it says so: the text of an expression, or a name other than `but`."""
    match function:
        case Expression():
            return (function.text,)
        case Fields() | Assign():
            return tuple(f"{name} = {expression.text}" for name, expression in function.fields.items())
        case _:
            name = getattr(function, "__name__", "<lambda>")
            return () if name in ("<lambda>", but) else (str(name),)


def scheduled(schedule: object) -> str:
    """When a worker runs: the schedule's own word, and what it was given."""
    if isinstance(schedule, Once) or not dataclasses.is_dataclass(schedule):
        return type(schedule).__name__.lower()
    given = [getattr(schedule, field.name) for field in dataclasses.fields(schedule) if field.init]
    words = [duration(value) if type(value) in (int, float) else str(value) for value in given if value is not None]
    return " ".join([type(schedule).__name__.lower(), *words])


def address(text: str) -> str:
    """An address without the password in it, if there is one."""
    return _PASSWORD.sub(r"\1:…@", text)


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(0.02), duration(2), duration(90)
    ('20ms', '2s', '1m 30s')
    """
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    if seconds < 60 or seconds != int(seconds):
        return f"{seconds:g}s"
    parts = ((int(seconds) // 3600, "h"), (int(seconds) // 60 % 60, "m"), (int(seconds) % 60, "s"))
    return " ".join(f"{number}{unit}" for number, unit in parts if number)


def size(count: int) -> str:
    """A number of bytes as people say it.

    >>> size(100), size(16 * 1024 * 1024)
    ('100 B', '16 MiB')
    """
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.4g} {unit}"


def spaced(name: str) -> str:
    """The name of a class as words: `FileOutlet` is a file outlet."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
