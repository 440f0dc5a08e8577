"""Results of runs, the consumers that receive them, and the records that are sent to clients."""

from penstock.results.consumer import DiscardResults, ResultConsumer
from penstock.results.line_writer import LineWriter
from penstock.results.records import (
    EndRecord,
    NdjsonFormat,
    RecordFormat,
    ServerSentEvents,
    end_line,
    failure_line,
    success_line,
)
from penstock.results.result import Failed, Ok, Result
from penstock.results.stream import ResultStream

__all__ = [
    "DiscardResults",
    "EndRecord",
    "Failed",
    "LineWriter",
    "NdjsonFormat",
    "Ok",
    "RecordFormat",
    "Result",
    "ResultConsumer",
    "ResultStream",
    "ServerSentEvents",
    "end_line",
    "failure_line",
    "success_line",
]
