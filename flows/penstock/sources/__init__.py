"""Where elements come from: cold Observables that take a credit for whatever they emit."""

from penstock.sources.feed import Feed, Overflow, from_observable
from penstock.sources.iterables import from_async_iterable, from_iterable, ticks
from penstock.sources.ndjson import LINE_LIMIT, LineSplitter, ndjson
from penstock.sources.source import Intake, LongLine, Source

__all__ = [
    "LINE_LIMIT",
    "Feed",
    "Intake",
    "LineSplitter",
    "LongLine",
    "Overflow",
    "Source",
    "from_async_iterable",
    "from_iterable",
    "from_observable",
    "ndjson",
    "ticks",
]
