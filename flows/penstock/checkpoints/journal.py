"""The journal of a resumable run: which elements are done, kept in memory and written down as checkpoints."""

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
    """The parts of one element that have their lines."""

    __slots__ = ("parts", "worst")

    def __init__(self, parts: IntervalSet | None = None, worst: Outcome = Outcome.FILTERED) -> None:
        self.parts = parts or IntervalSet()
        self.worst = worst

    def add(self, part: int, outcome: Outcome) -> None:
        """Note that a part is done."""
        self.parts.add(part)
        self.worst = worst_outcome(self.worst, outcome)


class Journal:
    """What is done, as of a checkpoint and ever since. It is told by the output that was read, then by the run."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._before = checkpoint
        self._begun = monotonic()
        self.done = IntervalSet(checkpoint.done)
        self.families = {
            seq: PartProgress(IntervalSet(pieces.parts), pieces.worst) for seq, pieces in checkpoint.pieces.items()
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
        """An element, or a part of one, is done; a second word about it changes nothing."""
        if seq in self.done:
            return
        if part is not None:
            self.families.setdefault(seq, PartProgress()).add(part, outcome)
            return
        family = self.families.pop(seq, None)
        if family is not None:
            outcome = worst_outcome(outcome, family.worst)
        self.done.add(seq)
        self.counts[outcome] += 1

    def on_settled(self, element: Element[Any], outcome: Outcome) -> None:
        """What the ledger of the run tells: the line of this element, if it has one, is written."""
        if outcome is not Outcome.CANCELLED:
            self.record(element.seq, element.part, outcome)

    def record_skipped(self, seq: int) -> None:
        """In an ordered run, all that came before a line is done: what has no line was filtered."""
        for start, stop in list(self.done.missing(0, seq)):
            for passed in range(start, stop):
                family = self.families.get(passed)
                self.record(passed, None, Outcome.FILTERED if family is None else family.worst)

    def checkpoint(self, offset: int) -> Checkpoint:
        """How far the run is. `offset` is the size of the output with all that is done."""
        return replace(
            self._before,
            seconds=round(self._before.seconds + monotonic() - self._begun, 3),
            offset=offset,
            done=list(self.done),
            pieces={seq: SavedPartProgress(list(family.parts), family.worst) for seq, family in self.families.items()},
            ok=self.counts[Outcome.OK],
            failed=self.counts[Outcome.FAILED],
            filtered=self.counts[Outcome.FILTERED],
            end=self.end,
        )

    def end_of(self, summary: Summary) -> EndRecord:
        """The end record of the whole run, that of the processes before included."""
        ok, failed, filtered = (self.counts[one] for one in (Outcome.OK, Outcome.FAILED, Outcome.FILTERED))
        return replace(
            summary.end(),
            received=ok + failed + filtered + summary.cancelled,
            ok=ok,
            failed=failed,
            filtered=filtered,
            seconds=round(self._before.seconds + monotonic() - self._begun, 6),
        )
