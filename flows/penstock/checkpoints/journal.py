"""The journal of a resumable run: which elements are done, in memory, saved as checkpoints."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Any

from msgspec.structs import replace

from penstock.checkpoints.checkpoint import Checkpoint, SavedPartProgress
from penstock.checkpoints.interval_set import IntervalSet
from penstock.core.element import Element, Outcome
from penstock.core.ledger import worst_outcome
from penstock.results import EndRecord
from penstock.runtime import Summary


class PartProgress:
    """The parts of one element that have their lines, and their worst outcome."""

    __slots__ = ("parts", "worst")

    def __init__(self, parts: IntervalSet | None = None, worst: Outcome = Outcome.FILTERED) -> None:
        self.parts = parts or IntervalSet()
        self.worst = worst

    def add(self, part: int, outcome: Outcome) -> None:
        """Record that a part is done."""
        self.parts.add(part)
        self.worst = worst_outcome(self.worst, outcome)


class Journal:
    """What is done: as of a checkpoint, then as read from the output, then as reported by the run."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._before = checkpoint
        self._started = monotonic()
        self.done = IntervalSet(checkpoint.done)
        self.parts = {
            seq: PartProgress(IntervalSet(saved.parts), saved.worst) for seq, saved in checkpoint.parts.items()
        }
        self.counts = Counter(
            {Outcome.OK: checkpoint.ok, Outcome.FAILED: checkpoint.failed, Outcome.FILTERED: checkpoint.filtered}
        )
        self.end = checkpoint.end

    @property
    def run(self) -> str:
        """The id of the run."""
        return self._before.run

    def record(self, seq: int, part: int | None, outcome: Outcome) -> None:
        """Record that an element, or a part of one, is done. Recording it again changes nothing."""
        if seq in self.done:
            return
        if part is not None:
            self.parts.setdefault(seq, PartProgress()).add(part, outcome)
            return
        progress = self.parts.pop(seq, None)
        if progress is not None:
            outcome = worst_outcome(outcome, progress.worst)
        self.done.add(seq)
        self.counts[outcome] += 1

    def on_settled(self, element: Element[Any], outcome: Outcome) -> None:
        """Record an element that the ledger settled: its line, if it has one, is written."""
        if outcome is not Outcome.CANCELLED:
            self.record(element.seq, element.part, outcome)

    def record_skipped(self, seq: int) -> None:
        """Record elements before a line of an ordered run: those without a line were filtered."""
        for start, stop in list(self.done.missing(0, seq)):
            for passed in range(start, stop):
                progress = self.parts.get(passed)
                self.record(passed, None, Outcome.FILTERED if progress is None else progress.worst)

    def checkpoint(self, offset: int) -> Checkpoint:
        """Return a checkpoint. `offset` is the size of the output, which contains everything that is done."""
        return replace(
            self._before,
            seconds=round(self._before.seconds + monotonic() - self._started, 3),
            offset=offset,
            done=list(self.done),
            parts={
                seq: SavedPartProgress(list(progress.parts), progress.worst) for seq, progress in self.parts.items()
            },
            ok=self.counts[Outcome.OK],
            failed=self.counts[Outcome.FAILED],
            filtered=self.counts[Outcome.FILTERED],
            end=self.end,
        )

    def end_of(self, summary: Summary) -> EndRecord:
        """Return the end record of the whole run, including its earlier processes."""
        ok, failed, filtered = (self.counts[one] for one in (Outcome.OK, Outcome.FAILED, Outcome.FILTERED))
        return replace(
            summary.end_record(),
            received=ok + failed + filtered + summary.cancelled,
            ok=ok,
            failed=failed,
            filtered=filtered,
            seconds=round(self._before.seconds + monotonic() - self._started, 6),
        )
