# The names of `__init__.py` for type checkers. A test compares the two.

from penstock.core.deadlines import remaining_seconds
from penstock.core.element import Failure
from penstock.errors import (
    ElementError,
    FlowDefinitionError,
    FlowFileError,
    PenstockError,
    PushSourceClosed,
    RunError,
)
from penstock.expressions import Expression
from penstock.flow import Flow, Otherwise, When
from penstock.results import Failed, Ok, Result
from penstock.runtime import (
    Cron,
    Every,
    Once,
    Run,
    Summary,
    Supervisor,
)
from penstock.services import AdaptiveLimit, Backoff, Breaker, Service
from penstock.sinks import FileSink, Sink, StdoutSink
from penstock.sources import (
    Overflow,
    PushSource,
    Source,
    from_async_iterable,
    from_directory,
    from_file,
    from_iterable,
    from_observable,
    from_stdin,
    generate,
    ndjson,
    ticks,
)

__version__: str

__all__ = [
    "AdaptiveLimit",
    "Backoff",
    "Breaker",
    "Cron",
    "ElementError",
    "Every",
    "Expression",
    "Failed",
    "Failure",
    "FileSink",
    "Flow",
    "FlowDefinitionError",
    "FlowFileError",
    "Ok",
    "Once",
    "Otherwise",
    "Overflow",
    "PenstockError",
    "PushSource",
    "PushSourceClosed",
    "Result",
    "Run",
    "RunError",
    "Service",
    "Sink",
    "Source",
    "StdoutSink",
    "Summary",
    "Supervisor",
    "When",
    "__version__",
    "from_async_iterable",
    "from_directory",
    "from_file",
    "from_iterable",
    "from_observable",
    "from_stdin",
    "generate",
    "ndjson",
    "remaining_seconds",
    "ticks",
]
