"""What happened in a test, as lines with their times; the same test with the same seed gives the same ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import msgspec

SHOWN = 200
"""Characters of a value that are shown."""


class Trace:
    """Lines, each with its second of virtual time. No ids and no times of day are in them."""

    def __init__(self, key: str | None) -> None:
        self.lines: list[tuple[float, str]] = []
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    @property
    def now(self) -> float:
        """Seconds since the test began."""
        return round(self._loop.time() - self._began, 9)

    def add(self, what: str) -> None:
        """Note what happens now."""
        self.lines.append((self.now, what))

    def name_of(self, value: Any) -> str:
        """What a value is called: by its key, or in short by itself."""
        known = plain(value)
        if self._key is not None and isinstance(known, dict) and self._key in known:
            return shown(cast("dict[str, Any]", known)[self._key])
        return shown(known, 60)


def plain(value: Any) -> Any:
    """A value as JSON has it: dicts, lists and scalars; what JSON does not know as its `repr`."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return msgspec.to_builtins(value, enc_hook=repr)
    except Exception:
        return repr(value)


def shown(value: Any, limit: int = SHOWN) -> str:
    """A value in one line, shortened when it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else f"{text[:limit]}…"


def at(seconds: float) -> str:
    """A time of virtual time, or a span: `0.25 s`."""
    return f"{round(seconds, 6):.10g} s"
