"""The dead letters of a test: a store in memory that can be down."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.deadletters import DeadLetter, MemoryStore
from penstock.errors import StoreError
from penstock.files.trials.case import Downtime
from penstock.files.trials.traces import Trace, shown


class Shelf(MemoryStore):
    """Keeps letters, except while it is down."""

    def __init__(self, downtimes: Sequence[Downtime], trace: Trace) -> None:
        super().__init__()
        self._downtimes = downtimes
        self._trace = trace

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters; all or none."""
        now = self._trace.now
        if any(one.since <= now and (one.until is None or now < one.until) for one in self._downtimes):
            self._trace.add("dead letters: the store is down")
            raise StoreError("the store is down")
        await super().add(letters)
        names = ", ".join(shown(f"#{letter.seq}" if letter.key is None else letter.key) for letter in letters)
        self._trace.add(f"dead letters: stored {names}")
