"""What became of a run: its numbers, its reason, and its end record."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct

from penstock.sinks import End
from penstock.support.text import sanitize


class Summary(Struct, frozen=True):
    """What became of a run: `received == ok + failed + filtered + cancelled`."""

    run: str
    flow: str
    kind: str
    reason: str
    """`completed`, `draining` (took no further input), `disconnected` (the reader closed the connection), `stalled`,
    `aborted`, `failed`."""
    received: int
    ok: int
    failed: int
    filtered: int
    cancelled: int
    seconds: float
    error: str | None = None
    """What broke, when the reason is `failed`."""

    def end(self) -> End:
        """The summary as the end record of a stream."""
        return End(
            self.reason,
            self.received,
            self.ok,
            self.failed,
            self.filtered,
            self.cancelled,
            self.seconds,
            sanitize(self.error) if self.error else UNSET,
        )

    def facts(self) -> dict[str, Any]:
        """What a log line of the run holds beside its ids."""
        return {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if name not in ("run", "flow", "kind") and value is not None
        }
