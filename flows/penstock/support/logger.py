"""The logger of the library: it writes nothing until the program configures structlog or logging."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, cast

import structlog

STDLIB_LOGGER = "penstock"
"""The name of the standard library's logger that gets the events while structlog is not configured."""

logging.getLogger(STDLIB_LOGGER).addHandler(logging.NullHandler())  # without a handler, warnings go to standard error


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return a logger for events with keys.

    Events go to structlog if the program has configured it, and otherwise to the logger `penstock` of the standard
    library, as text. (Not configured, structlog would print them to standard output, which belongs to the program.)
    """
    return cast("structlog.stdlib.BoundLogger", _Logger())


class _Logger:
    """Chooses the logger at each use: modules are imported before a program configures anything."""

    def __init__(self) -> None:
        self._structlog: Any = structlog.get_logger()
        self._stdlib: Any = structlog.wrap_logger(
            logging.getLogger(STDLIB_LOGGER),
            processors=[structlog.stdlib.filter_by_level, _to_text],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._structlog if structlog.is_configured() else self._stdlib, name)


def _to_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """Return the message `run.ended flow='orders' reason='completed'`, and the exception if there is one."""
    error = event.pop("exc_info", None)
    name = event.pop("event", "")
    return (" ".join([str(name), *(f"{key}={value!r}" for key, value in event.items())]),), {"exc_info": error}


def quiet_libraries() -> None:
    """Silence libraries that log each error that they also raise: errors of stores have it, once.

    aiokafka logs an error each time that a broker closes a connection, and each time that one knows no producer ids.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
