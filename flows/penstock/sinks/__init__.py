"""Where results go: Observers that settle what they accepted."""

from penstock.sinks.lines import Lines
from penstock.sinks.outcomes import Outcomes, Result
from penstock.sinks.records import End, Form, Ndjson, ServerSentEvents, end_line, failure_line, success_line
from penstock.sinks.sink import Discard, Sink

__all__ = [
    "Discard",
    "End",
    "Form",
    "Lines",
    "Ndjson",
    "Outcomes",
    "Result",
    "ServerSentEvents",
    "Sink",
    "end_line",
    "failure_line",
    "success_line",
]
