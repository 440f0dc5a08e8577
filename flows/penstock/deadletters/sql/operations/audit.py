"""The audit: every action, kept for ever."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, RowMapping, insert, select

from penstock.deadletters.dead_letter_queue import AuditAction, AuditRecord, Requester
from penstock.deadletters.sql.dialect import clock
from penstock.deadletters.sql.rows import from_microseconds
from penstock.deadletters.sql.table import AUDIT


class Progress(Struct, frozen=True):
    """How far an operation in several transactions is."""

    count: int = 0
    """Letters changed so far."""
    after: str | None = None
    """Where the next transaction begins."""
    done: bool = False
    uncopied: int = 0
    """Letters deleted before every copy of the store had them."""


def record(
    connection: Connection,
    action: AuditAction,
    requester: Requester,
    query: str,
    *,
    job: str | None = None,
    count: int = 0,
    outcome: str = "done",
) -> None:
    """Write one record. `query` is a JSON document."""
    values: dict[str, Any] = {
        "at": clock(connection),
        "requester": requester.name,
        "action": action,
        "reason": requester.reason,
        "query": query,
        "job": job,
        "count": count,
        "outcome": outcome,
    }
    connection.execute(insert(AUDIT), values)


def record_progress(
    connection: Connection,
    action: AuditAction,
    requester: Requester,
    query: str,
    before: Progress,
    now: Progress,
    *,
    outcome: str = "done",
) -> None:
    """Record an action in several transactions: `started` in the first one, unless it is the only one, and its end."""
    if now.done:
        record(connection, action, requester, query, count=now.count, outcome=outcome)
    elif not before.count:
        record(connection, action, requester, query, outcome="started")


def read_audit(connection: Connection, job: str | None, after: int | None, limit: int) -> list[AuditRecord]:
    """Return records, newest first, starting after a number."""
    statement = select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
    if job is not None:
        statement = statement.where(AUDIT.c.job == job)
    if after is not None:
        statement = statement.where(AUDIT.c.number < after)
    return [
        AuditRecord(at=from_microseconds(row["at"]), query=json.loads(row["query"]), **_other_fields(row))
        for row in connection.execute(statement).mappings()
    ]


def _other_fields(row: RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in ("number", "requester", "action", "reason", "job", "count", "outcome")}
