"""Describe steps, services, sinks, sources and stores in a few words each, for display in a graph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from penstock.backends import server_url
from penstock.deadletters import DeadLetterStore
from penstock.flow.flow import Flow
from penstock.flow.serving import Worker
from penstock.runtime.schedule import Once
from penstock.services import Service
from penstock.sinks import Sink
from penstock.support.text import format_duration

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^/\s]+@")


def service_details(service: Service) -> tuple[str, ...]:
    """Describe the URL and the limits of a service."""
    url = getattr(service.function, "url", None)
    return (
        *((hide_password(url),) if isinstance(url, str) else ()),
        _limit_label(service),
        f"timeout {format_duration(service.timeout)}",
        *((f"attempts {service.attempts}",) if service.attempts > 1 else ()),
    )


def _limit_label(service: Service) -> str:
    adaptive = service.adaptive_limit
    return (
        f"max {service.max_in_flight} in flight" if adaptive is None else f"{adaptive.min} to {adaptive.max} in flight"
    )


def sink_details(sink: Sink) -> tuple[str, ...]:
    """Describe the class of a sink, its URL or path if it has one, and where it writes to there."""
    target = getattr(sink, "url", None) or getattr(sink, "path", None)
    shown = () if target is None else (_hide_credentials(str(target)),)
    return (split_words(type(sink).__name__), *shown, *_addresses(sink))


def worker_details(worker: Worker) -> tuple[str, ...]:
    """Describe the source of a worker, its URL if it has one and what it reads there, and the schedule."""
    source = worker.source
    url = getattr(source, "url", None)
    shown = () if url is None else (_hide_credentials(str(url)),)
    endless = source.endless and isinstance(worker.schedule, Once)
    return (source.name, *shown, *_addresses(source), "endless" if endless else schedule_label(worker.schedule))


_ADDRESSES = ("stream", "topic", "subject", "table", "durable", "group")
"""The attributes of sources and sinks of servers that tell what they read or write, where they have them."""


def _addresses(item: object) -> Iterator[str]:
    for name in _ADDRESSES:
        if isinstance(value := getattr(item, name, None), str):
            yield f"{name} {value}"


def _hide_credentials(url: str) -> str:
    """Hide the password of a URL; that of a server of ours has none of the login, because a token stands for a user."""
    if "nats://" in url or "kafka://" in url:
        return server_url.hide_password(url)
    return server_url.hide_secret_options(hide_password(url))


def decode_details(flow: Flow[Any]) -> tuple[str, ...]:
    """Describe the items of a flow: their type and their key."""
    item = "any JSON" if flow.item is None else getattr(flow.item, "__name__", str(flow.item))
    return (item, *((f"key {flow.key}",) if flow.key else ()))


def store_label(store: str | DeadLetterStore) -> str:
    """Return the URL of a dead-letter store as it is written in the flow, without a password."""
    url = store if isinstance(store, str) else getattr(store, "url", None)
    return server_url.hide_password(url or split_words(type(store).__name__))


def window_label(flow: Flow[Any]) -> str:
    """Describe how much one run holds in flight, and for how long."""
    window = f"window {flow.elements:,} elements, {format_size(flow.bytes)}"
    return window if flow.max_seconds is None else f"{window}, deadline {format_duration(flow.max_seconds)}"


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
    """Write the name of a class in words: `FileSink` becomes `file sink`; JetStream is one word."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("JetStream", "Jetstream")).lower()
