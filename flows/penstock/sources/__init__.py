"""Where elements come from: cold Observables that take a credit for whatever they emit."""

from penstock.sources.directory import from_directory
from penstock.sources.feed import Feed, Overflow, from_observable
from penstock.sources.files import from_file
from penstock.sources.iterables import from_async_iterable, from_iterable, generated, ticks
from penstock.sources.ndjson import LINE_LIMIT, LineSplitter, ndjson
from penstock.sources.source import Intake, LongLine, Source, Unreadable
from penstock.sources.standard import from_stdin

__all__ = [
    "LINE_LIMIT",
    "Feed",
    "Intake",
    "LineSplitter",
    "LongLine",
    "Overflow",
    "Source",
    "Unreadable",
    "from_async_iterable",
    "from_directory",
    "from_file",
    "from_iterable",
    "from_observable",
    "from_stdin",
    "generated",
    "ndjson",
    "ticks",
]
