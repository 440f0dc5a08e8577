"""Outlets: places outside that a flow delivers values to, beside its results."""

from penstock.sinks.file import FileSink, Sharing, check_outlets
from penstock.sinks.shared import SharedSink
from penstock.sinks.sink import Sink
from penstock.sinks.stdout import DiscardSink, StdoutSink

__all__ = ["DiscardSink", "FileSink", "SharedSink", "Sharing", "Sink", "StdoutSink", "check_outlets"]
