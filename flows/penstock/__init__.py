"""Reactive dataflow with backpressure and durable dead letters.

The names below are the public API, with these packages:

- `penstock.flowfile`: `load` and `dump` flow files
- `penstock.sources`, `penstock.sinks`: all sources and sinks, and the protocols for your own
- `penstock.results`: consumers of results, such as `LineWriter` and `DiscardResults`
- `penstock.deadletters`: stores of dead letters, and queries
- `penstock.services`: services, and policies for retries
- `penstock.errors`: all errors
- `penstock.observe`: logs and metrics
- `penstock.testing`: virtual time for tests

A name is imported when it is first used, so that `penstock --help` does not import what it does not need.
`__init__.pyi` declares the same names for type checkers.
"""

from importlib import import_module as _import_module

__version__ = "0.2.0"

_MODULES = {
    "AdaptiveLimit": "services",
    "Backoff": "services",
    "Breaker": "services",
    "Cron": "runtime",
    "ElementError": "errors",
    "Every": "runtime",
    "Expression": "expressions",
    "Failed": "results",
    "Failure": "core.element",
    "FileSink": "sinks",
    "Flow": "flow",
    "FlowDefinitionError": "errors",
    "FlowFileError": "errors",
    "Ok": "results",
    "Once": "runtime",
    "Otherwise": "flow",
    "Overflow": "sources",
    "PenstockError": "errors",
    "PushSource": "sources",
    "PushSourceClosed": "errors",
    "Result": "results",
    "Run": "runtime",
    "RunError": "errors",
    "Service": "services",
    "Sink": "sinks",
    "Source": "sources",
    "StdoutSink": "sinks",
    "Summary": "runtime",
    "Supervisor": "runtime",
    "When": "flow",
    "from_async_iterable": "sources",
    "from_directory": "sources",
    "from_file": "sources",
    "from_iterable": "sources",
    "from_observable": "sources",
    "from_stdin": "sources",
    "generate": "sources",
    "ndjson": "sources",
    "remaining_seconds": "core.deadlines",
    "ticks": "sources",
}
"""The public names, and the modules that define them."""

__all__ = ["__version__", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(_import_module(f"penstock.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
