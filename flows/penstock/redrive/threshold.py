"""Decide when so many letters of a redrive job failed again that it stops."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.deadletters.dead_letter_queue import AuditRecord, BatchCounts, Job

MIN_OUTCOMES = 50
"""Outcomes in the last batch after which its share of failures is compared while it runs."""


class Threshold:
    """Compares the share of failures in the batches of a job with its `stop_at`.

    Each batch is compared when none of its letters is open, the last one also while it runs. When a user has resumed a
    job, the outcomes so far do not stop it again.
    """

    def __init__(self, job: Job, records: Sequence[AuditRecord]) -> None:
        """`records`: the latest audit records of the job, the newest first."""
        self._limit = job.options.stop_at
        self._last = len(job.batches) - 1
        self._resumed = next((each.action == "resume" for each in records if each.action != "rate"), False)
        self._before = job.batches[-1] if self._resumed and job.batches else BatchCounts()
        """The outcomes in the last batch that do not count."""

    def after_batch(self, batches: Sequence[BatchCounts], number: int, *, worked: bool) -> str | None:
        """Return why the job stops after a batch, or None.

        `worked`: whether the batch had open letters when this runner came to it. Otherwise it was compared before if
        the next one has begun.
        """
        if number == self._last or (not worked and (self._resumed or _is_begun(batches[number + 1]))):
            return None
        return self._compare(batches[number], number)

    def in_batch(self, batches: Sequence[BatchCounts], number: int) -> str | None:
        """Return why the job stops in the middle of a batch, or None."""
        counts, before = batches[number], self._before
        if number < self._last:
            return None
        resolved, failed = counts.resolved - before.resolved, counts.failed - before.failed
        if resolved + failed < MIN_OUTCOMES:
            return None
        return self._compare(BatchCounts(total=counts.total, resolved=resolved, failed=failed), number)

    def _compare(self, counts: BatchCounts, number: int) -> str | None:
        outcomes = counts.resolved + counts.failed
        if self._limit is None or not outcomes or counts.failed <= self._limit * outcomes:
            return None
        return (
            f"{counts.failed} of {outcomes} letters of batch {number + 1} failed again, more than {self._limit:.0%}; "
            "inspect them, then resume the job"
        )


def _is_begun(counts: BatchCounts) -> bool:
    return counts.open < counts.total
