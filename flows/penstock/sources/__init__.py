"""Sources: where the elements of a run come from.

`from_iterable`, `from_async_iterable`, `generate` and `ticks` make values in Python; `from_file`, `from_directory`,
`from_stdin` and `ndjson` read records; `S3Source` reads the objects of a bucket, `PostgresSource` the rows of a query;
`JetStreamSource` and `KafkaSource` receive the messages of a broker; `PushSource` and `from_observable` take values
that cannot wait. A source of your own is a subclass of `Source`.

>>> summary = await flow.run(from_file("orders.ndjson"))
"""

from penstock.core.leases import Answer, Leases, Lessor
from penstock.formats.ndjson_reader import LINE_LIMIT, LineSplitter
from penstock.formats.rejected import OversizedInput, RejectedInput
from penstock.sources.byte_stream import from_stdin, ndjson
from penstock.sources.directory import from_directory
from penstock.sources.file import from_file
from penstock.sources.iterables import from_async_iterable, from_iterable, generate, ticks
from penstock.sources.jetstream import JetStreamSource
from penstock.sources.kafka import KafkaSource
from penstock.sources.postgres import PostgresSource
from penstock.sources.push import Overflow, PushSource, from_observable
from penstock.sources.s3 import S3Source
from penstock.sources.source import Emitter, Source
from penstock.support.used_files import UsedFile

__all__ = [
    "LINE_LIMIT",
    "Answer",
    "Emitter",
    "JetStreamSource",
    "KafkaSource",
    "Leases",
    "Lessor",
    "LineSplitter",
    "Overflow",
    "OversizedInput",
    "PostgresSource",
    "PushSource",
    "RejectedInput",
    "S3Source",
    "Source",
    "UsedFile",
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
