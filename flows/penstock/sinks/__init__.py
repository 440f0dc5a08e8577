"""Sinks: where the step `to` delivers values, beside the results of a flow."""

from penstock.sinks.file import FileSink, SinkFiles, check_sinks
from penstock.sinks.shared import SharedSink
from penstock.sinks.sink import Sink
from penstock.sinks.stdout import DiscardSink, StdoutSink

__all__ = ["DiscardSink", "FileSink", "SharedSink", "Sink", "SinkFiles", "StdoutSink", "check_sinks"]
