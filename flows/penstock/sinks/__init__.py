"""Sinks: where the step `to` writes values, in addition to the results of the flow.

`FileSink` appends to a file, `StdoutSink` writes to standard output, `DiscardSink` keeps nothing. A sink of your own
has the methods of the protocol `Sink`.

>>> flow = Flow("orders").to(FileSink("orders.ndjson"))
"""

from penstock.sinks.file import FileSink, SinkFiles, check_sinks
from penstock.sinks.shared import SharedSink
from penstock.sinks.sink import Sink
from penstock.sinks.stdout import DiscardSink, StdoutSink

__all__ = ["DiscardSink", "FileSink", "SharedSink", "Sink", "SinkFiles", "StdoutSink", "check_sinks"]
