"""Sinks: where the step `to` writes values, in addition to the results of the flow.

`FileSink` appends to a file, `StdoutSink` writes to standard output, `KafkaSink` writes to a topic, `DiscardSink` keeps
nothing. A sink of your own has the methods of the protocol `Sink`; if it writes to files, it is also a subclass of
`LocalSink`.

>>> flow = Flow("orders").to(FileSink("orders.ndjson"))
"""

from penstock.sinks.file import FileSink
from penstock.sinks.kafka import KafkaSink
from penstock.sinks.local import LocalSink, SinkFiles, check_sinks, files_written
from penstock.sinks.shared import SharedSink
from penstock.sinks.sink import Sink
from penstock.sinks.stdout import DiscardSink, StdoutSink
from penstock.support.used_files import UsedFile

__all__ = [
    "DiscardSink",
    "FileSink",
    "KafkaSink",
    "LocalSink",
    "SharedSink",
    "Sink",
    "SinkFiles",
    "StdoutSink",
    "UsedFile",
    "check_sinks",
    "files_written",
]
