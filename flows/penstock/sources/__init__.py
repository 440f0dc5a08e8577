"""Sources: where elements come from. Each is a cold Observable that acquires a credit for every element."""

from penstock.formats.ndjson_reader import LINE_LIMIT, LineSplitter
from penstock.formats.rejected import OversizedInput, RejectedInput
from penstock.sources.byte_stream import from_stdin, ndjson
from penstock.sources.directory import from_directory
from penstock.sources.file import from_file
from penstock.sources.iterables import from_async_iterable, from_iterable, generate, ticks
from penstock.sources.push import Overflow, PushSource, from_observable
from penstock.sources.source import Emitter, Source

__all__ = [
    "LINE_LIMIT",
    "Emitter",
    "LineSplitter",
    "Overflow",
    "OversizedInput",
    "PushSource",
    "RejectedInput",
    "Source",
    "from_async_iterable",
    "from_directory",
    "from_file",
    "from_iterable",
    "from_observable",
    "from_stdin",
    "generate",
    "ndjson",
    "ticks",
]
