"""Did the process before this one end well? A file beside the database says so: it is there while one runs."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from penstock.deadletters.store import SQLITE
from penstock.deadletters.stores import normalize_url

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RunningMark:
    """A file with the id of the process that serves, beside its dead letters; removed by a stop that went well."""

    def __init__(self, store_url: str, port: int) -> None:
        self._store_url = store_url
        place = normalize_url(store_url)
        file = place.removeprefix(SQLITE)
        self._path = None if file == place else Path(f"{file}.serving-{port}")

    def set(self) -> bool:
        """Set the mark; returns whether the process before this one left its own behind."""
        if self._path is None:
            return False
        forced = self._path.exists() and not self._alive()
        try:
            self._path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            log.warning("stop.unmarked", dead_letters=self._store_url, error=error.strerror)
        return forced

    def clear(self) -> None:
        """This process ends well."""
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("stop.still_marked", dead_letters=self._store_url, error=error.strerror)

    def _alive(self) -> bool:
        """Whether the process that set the mark still runs."""
        try:
            pid = int(self._path.read_text()) if self._path else 0
            os.kill(pid, 0)
        except (ValueError, OSError):
            return False
        return pid != os.getpid()
