"""Format letters, groups, jobs and audit records as lines of a table."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import AuditRecord, Group, Job
from penstock.deadletters.store import STATES, DeadLetterQuery
from penstock.redrive.documents import query_document
from penstock.support.json_encoding import encode_json
from penstock.support.text import printable

LETTER_HEADINGS = ("ID", "TIME", "FLOW", "KEY", "STEP", "TYPE", "MESSAGE")

JOB_HEADINGS = ("JOB", "STATE", "TOTAL", "RESOLVED", "FAILED", "SKIPPED", "OPEN", "CREATED", "REQUESTER", "REASON")

AUDIT_HEADINGS = ("NUMBER", "TIME", "REQUESTER", "ACTION", "COUNT", "OUTCOME", "JOB", "LETTERS", "REASON")

MAX_CELL = 36
"""Characters of a cell, except for the last one."""

MIN_LAST = 20
"""Characters of the last cell that are shown even on a narrow terminal."""


class Table:
    """Formats rows as lines, with columns as wide as the first page needs.

    On a terminal, the last column is cut to the width of the terminal. Otherwise it is complete, so that it can be
    searched.
    """

    def __init__(self, headings: Sequence[str]) -> None:
        self._headings = headings
        self._max_width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self._widths: list[int] = []

    def lines(self, rows: Sequence[Sequence[str]]) -> Iterator[str]:
        """Yield the lines of a page. The first page begins with the headings."""
        cut = [[*(shorten(printable(cell), MAX_CELL) for cell in cells), printable(last)] for *cells, last in rows]
        if not self._widths:
            cut.insert(0, list(self._headings))
            self._widths = [max(len(row[column]) for row in cut) for column in range(len(self._headings) - 1)]
        for row in cut:
            yield self._line(row)

    def _line(self, row: Sequence[str]) -> str:
        *cells, last = row
        line = "  ".join(shorten(cell, width).ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        if self._max_width is not None:
            last = shorten(last, max(MIN_LAST, self._max_width - len(line) - 2))
        return f"{line}  {last}".rstrip()


def letter_row(letter: DeadLetter) -> Sequence[str]:
    """Make the cells of a letter."""
    key = "" if letter.key is None else str(letter.key)
    return (letter.id, format_time(letter.failed_at), letter.flow, key, letter.step, letter.type, letter.message)


def group_lines(groups: Sequence[Group], total: Mapping[str, int]) -> Iterator[str]:
    """Yield the table of groups. It has columns for the states that letters have."""
    states = [state for state in STATES if total.get(state) or any(group.counts.get(state) for group in groups)]
    revisions = any(group.first_revision is not None for group in groups)
    headings = ["GROUP", *map(str.upper, states), "FIRST", "LAST", *(["REVISION"] if revisions else [])]
    table = Table([*headings, "FLOW", "STEP", "TYPE", "MESSAGE"])
    rows = [
        [
            group.id,
            *(str(group.counts.get(state, 0)) for state in states),
            format_time(group.first_seen),
            format_time(group.last_seen),
            *(["" if group.first_revision is None else str(group.first_revision)] if revisions else []),
            group.flow,
            group.step,
            group.type,
            group.pattern,
        ]
        for group in groups
    ]
    yield from table.lines(rows)


def total_line(total: Mapping[str, int]) -> str:
    """Format the number of letters by state."""
    states = ", ".join(f"{total[state]:,} {state}" for state in STATES if total.get(state))
    return f"total: {plural(sum(total.values()), 'letter')}{f' ({states})' if states else ''}"


def job_row(job: Job) -> Sequence[str]:
    """Make the cells of a job."""
    counts = job.counts
    numbers = (counts.total, counts.resolved, counts.failed, counts.skipped, counts.open)
    return (job.id, job.state, *map(str, numbers), format_time(job.created_at), job.requester, job.reason)


def job_lines(job: Job) -> Iterator[str]:
    """Yield the facts of a job, then the counts of its batches."""
    options = job.options
    facts = {
        "job": job.id,
        "state": job.state,
        "message": job.message,
        "letters": encode_json(job.query).decode(),
        "flow": options.flow,
        "rate": None if options.rate is None else f"{options.rate:g}/s",
        "stop at": None if options.stop_at is None else f"{options.stop_at:.0%}",
        "limit": f"{options.limit} redrives",
        "requester": job.requester,
        "reason": job.reason,
        "created": format_time(job.created_at),
        "ended": None if job.ended_at is None else format_time(job.ended_at),
        "runner": job.runner,
    }
    yield from (f"{name:<10}{printable(text)}" for name, text in facts.items() if text)
    table = Table(("BATCH", "TOTAL", "RESOLVED", "FAILED", "SKIPPED", "OPEN"))
    numbered = enumerate(job.batches, 1)
    rows = [(i, one.total, one.resolved, one.failed, one.skipped, one.open) for i, one in numbered]
    yield from table.lines([[str(cell) for cell in row] for row in rows])


def job_summary(job: Job) -> str:
    """Format the outcome of a job as one line."""
    counts = job.counts
    parts = [f"{counts.resolved:,} resolved", f"{counts.failed:,} failed again"]
    parts += [f"{counts.skipped:,} skipped"] if counts.skipped else []
    parts += [f"{counts.open:,} open"] if counts.open else []
    return f"job {job.id} is {job.state}: {plural(counts.total, 'letter')}, {', '.join(parts)}"


def audit_row(record: AuditRecord) -> Sequence[str]:
    """Make the cells of an audit record."""
    letters = encode_json(record.query).decode() if record.query else ""
    what = (record.action, str(record.count), record.outcome, record.job or "", letters)
    return (str(record.number), format_time(record.at), record.requester, *what, record.reason)


def describe_query(query: DeadLetterQuery) -> str:
    """Describe in a message which letters are selected."""
    fields: dict[str, Any] = query_document(query)
    ids = fields.pop("ids", ())
    words = [plural(len(ids), "id")] if ids else []
    words += [f"{name} {value}" for name, value in fields.items()]
    return f" with {', '.join(words)}" if words else ""


def format_time(time: datetime, precision: str = "seconds") -> str:
    """Format a time in UTC, as `--since` accepts it."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def shorten(text: str, width: int) -> str:
    """Cut a text to a width. A text that was cut ends with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def plural(count: int, noun: str) -> str:
    """Format a number of things."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
