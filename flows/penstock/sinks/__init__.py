"""Sinks: where the step `to` writes values, in addition to the results of the flow.

`FileSink` appends to a file, `StdoutSink` writes to standard output, `JetStreamSink` and `KafkaSink` publish to a
broker, `TableSink` inserts into a table of PostgreSQL, `S3Sink` writes objects of a bucket, `DiscardSink` drops all. A
sink of your own has the methods of the protocol `Sink`; if it writes to files, it is also a subclass of `LocalSink`.

>>> flow = Flow("orders").to(FileSink("orders.ndjson"))
"""

from penstock.sinks.file import FileSink
from penstock.sinks.jetstream import JetStreamSink
from penstock.sinks.kafka import KafkaSink
from penstock.sinks.local import LocalSink, SinkFiles, check_sinks, files_written
from penstock.sinks.postgres import TableSink
from penstock.sinks.s3 import S3Sink
from penstock.sinks.shared import SharedSink
from penstock.sinks.sink import Sink
from penstock.sinks.stdout import DiscardSink, StdoutSink
from penstock.support.used_files import UsedFile

__all__ = [
    "DiscardSink",
    "FileSink",
    "JetStreamSink",
    "KafkaSink",
    "LocalSink",
    "S3Sink",
    "SharedSink",
    "Sink",
    "SinkFiles",
    "StdoutSink",
    "TableSink",
    "UsedFile",
    "check_sinks",
    "files_written",
]
