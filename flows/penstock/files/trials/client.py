"""The client of a test: it takes the lines of the results at its own pace, and may leave."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from penstock.errors import ReaderGone
from penstock.files.trials.elements import Register
from penstock.files.trials.traces import Trace


class Client:
    """Reads results, `pace` seconds for each."""

    def __init__(self, pace: float, register: Register, trace: Trace) -> None:
        self.records: list[dict[str, Any]] = []
        """What it was told, in the order in which it came."""
        self.gone = False
        self._pace = pace
        self._register = register
        self._trace = trace

    async def write(self, data: bytes) -> None:
        """Take lines. Those of one write count when all of it is taken, as its elements are settled then."""
        lines = data.splitlines()
        if self._pace:
            await asyncio.sleep(self._pace * len(lines))
        if self.gone:
            raise ReaderGone
        for line in lines:
            self._take(msgspec.json.decode(line))

    def _take(self, record: dict[str, Any]) -> None:
        label = self._register.label(self._register.elements[record["seq"]])
        part = f", part {record['part']}" if "part" in record else ""
        if record["ok"]:
            self._trace.add(f"ok: {label}{part}")
        else:
            error = record["error"]
            self._trace.add(f"failed: {label}{part} at {error['step']}, {error['type']}: {error['message']}")
        self.records.append(record)
