"""Converts jobs and their options to rows, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import json as msgspec_json

from penstock.deadletters.dead_letter_queue import BatchCounts, Job, JobOptions
from penstock.deadletters.sql.rows import from_microseconds


def options_json(options: JobOptions) -> str:
    """Encode the options of a job."""
    return msgspec_json.encode(options).decode()


def options_of(text: str) -> JobOptions:
    """Decode the options of a job."""
    return msgspec_json.decode(text, type=JobOptions)


def job_of(row: Any, batches: Sequence[BatchCounts], now: int) -> Job:
    """Convert a row to a job. Its runner is known while the lease lasts."""
    return Job(
        id=row.id,
        state=row.state,
        options=options_of(row.options),
        query=json.loads(row.query),
        requester=row.requester,
        reason=row.reason,
        created_at=from_microseconds(row.created_at),
        ended_at=None if row.ended_at is None else from_microseconds(row.ended_at),
        batches=batches,
        message=row.message,
        runner=row.runner if row.leased_until is not None and row.leased_until > now else None,
    )
