"""Writes letters to PostgreSQL, many in one durable commit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

from penstock.backends.postgres import (
    COMMAND_SECONDS,
    PostgresConnection,
    PostgresServer,
    asyncpg,
    is_connection_error,
    reason_of,
)
from penstock.deadletters.groups import KnownGroups, pattern_in
from penstock.deadletters.postgres.errors import concerns_store
from penstock.deadletters.postgres.migrations import prepare
from penstock.deadletters.sql.grouping import assign_groups
from penstock.deadletters.sql.rows import COLUMNS, Columns
from penstock.deadletters.sqlite.group_commit import OnDone
from penstock.deadletters.sqlite.writer import WriterStatistics
from penstock.deadletters.store import STATES
from penstock.errors import StoreConnectionLost

STATEMENT_BYTES = 16 * 1024 * 1024
"""The size of inputs and results after which a statement is full. PostgreSQL needs a multiple of it."""

_BYTES = ("input",)
_NUMBERS = {"seq", "part", "attempts", "input_size", "started_at", "failed_at", "revision", "redrives"}
_TEXTS = tuple(COLUMNS.index(name) for name in COLUMNS if name not in _NUMBERS and name not in _BYTES)
_FLOW, _STEP, _TYPE, _MESSAGE, _GROUP_ID, _INPUT, _FOUND = map(
    COLUMNS.index, ("flow", "step", "type", "message", "group_id", "input", "found")
)


def _array(position: int, name: str) -> str:
    kind = "bytea" if name in _BYTES else "bigint" if name in _NUMBERS else "text"
    return f"${position}::{kind}[]"


_WIDTH = len(COLUMNS)
_NAMES = ", ".join(COLUMNS)
_ARRAYS = ", ".join(_array(position, name) for position, name in enumerate(COLUMNS, 1))
_COUNTS = ", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in STATES)
_ADDED = ", ".join(f"{state} = groups.{state} + excluded.{state}" for state in STATES)

ADD = f"""
    WITH stored AS (
        INSERT INTO letters ({_NAMES})
        SELECT * FROM unnest({_ARRAYS}) AS given ({_NAMES}) ORDER BY id
        ON CONFLICT DO NOTHING
        RETURNING id, flow, step, type, state, failed_at, revision, group_id
    ), changed AS (
        INSERT INTO groups
            (id, flow, step, type, pattern, first_seen, last_seen, first_revision, {", ".join(STATES)})
        SELECT
            group_id, min(flow), min(step), min(type), min(pattern), min(failed_at), max(failed_at),
            (array_agg(revision ORDER BY failed_at, id))[1], {_COUNTS}
        FROM stored JOIN unnest(${_WIDTH + 1}::text[], ${_WIDTH + 2}::text[]) AS patterns (group_id, pattern)
        USING (group_id)
        GROUP BY group_id ORDER BY group_id
        ON CONFLICT (id) DO UPDATE SET
            first_revision = CASE
                WHEN excluded.first_seen < groups.first_seen THEN excluded.first_revision ELSE groups.first_revision
            END,
            first_seen = least(groups.first_seen, excluded.first_seen),
            last_seen = greatest(groups.last_seen, excluded.last_seen),
            {_ADDED}
    ), outbox AS (
        INSERT INTO copies (copy, letter_id)
        SELECT copy, id FROM stored CROSS JOIN unnest(${_WIDTH + 3}::text[]) AS copy
    )
    SELECT state, count(*) FROM stored GROUP BY state
"""  # noqa: S608 - no input
"""Stores letters with their groups and their places in the outbox; returns how many were new, by state.

One statement is one round trip and one transaction. Groups are changed in the order of their ids, so that processes do
not wait for each other in a circle.
"""

COUNT = f"SELECT {', '.join(f'coalesce(sum({state}), 0)::bigint AS {state}' for state in STATES)} FROM groups"  # noqa: S608 - no input


class PostgresWriter:
    """The `WriterBackend` of a PostgreSQL store: one connection, which is opened again when it was lost."""

    def __init__(
        self,
        server: PostgresServer,
        url: str,
        statistics: WriterStatistics,
        *,
        create: bool,
        copies: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.statistics = statistics
        self._server = server
        self._url = url
        self._create = create
        self._copies = copies
        self._connection: PostgresConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._groups = KnownGroups()

    @property
    def timeout(self) -> float:
        """Seconds that one group may take."""
        return COMMAND_SECONDS + self._server.connect_seconds

    def serialize(self, columns: Columns) -> Columns:
        """Replace what PostgreSQL cannot store, and set the groups."""
        for column in _TEXTS:
            columns[column] = replace_nul(columns[column])
        assign_groups(columns, self._groups)
        return columns

    async def open(self) -> None:
        """Connect, migrate the schema, and count the letters."""
        connection = await self._connect()
        try:
            await prepare(connection, self._server.schema, self._url, create=self._create)
            await self._recount(connection)
        except BaseException:
            self._disconnect()
            raise

    def submit(self, batches: list[Columns], *, refresh: bool, on_done: OnDone) -> None:
        """Check the connection and the counts, if `refresh` is set, then store a group, in a task."""
        self._start(self._write(batches, refresh), on_done)

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=2)

    def kill(self) -> None:
        """Cancel the current group."""
        if self._task is not None:
            self._task.cancel()
        self._disconnect()

    def close_detached(self) -> None:
        """Close the socket: the event loop of the connection was closed."""
        self._connection = self._task = None

    def _start(self, work: Coroutine[Any, Any, list[Exception | None]], on_done: OnDone) -> None:
        async def run() -> None:
            try:
                outcome: list[Exception | None] | Exception = await work
            except asyncio.CancelledError:  # by `kill`
                on_done(StoreConnectionLost(self._url, "the store was closed"))
                raise
            except Exception as error:
                outcome = error
            on_done(outcome)

        self._task = asyncio.create_task(run(), name="dead letters")

    async def _write(self, batches: list[Columns], refresh: bool) -> list[Exception | None]:
        if not batches:
            return [await self._check()] if refresh else []
        error = await self._commit(batches)
        # A lost connection or a full disk affects all callers; any other error may be caused by the letters of one.
        if error is None or len(batches) == 1 or concerns_store(error):
            return [error] * len(batches)
        return [await self._commit([batch]) for batch in batches]

    async def _check(self) -> Exception | None:
        try:
            await self._recount(await self._connect())
        except Exception as error:
            self._note_error(error)
            return error
        return None

    async def _commit(self, batches: Sequence[Columns]) -> Exception | None:
        started = time.perf_counter()
        try:
            connection = await self._connect()
            try:
                if self._groups.outdated:  # for the next letters: those of this group have been assigned
                    await self._read_groups(connection)
                added = await self._add(connection, batches)
            except Exception as error:
                if is_connection_error(error):
                    raise StoreConnectionLost(self._url, reason_of(error)) from error
                raise
        except Exception as error:
            self._note_error(error)
            self.statistics.failures += 1
            return error
        finally:
            self.statistics.seconds += time.perf_counter() - started
        self.statistics.commits += 1
        self.statistics.stored += added.total()
        self.statistics.counts = dict(Counter(self.statistics.counts) + added)
        return None

    async def _add(self, connection: PostgresConnection, batches: Sequence[Columns]) -> Counter[str]:
        copies = list(self._copies())
        statements = list(_statements(batches))
        if len(statements) == 1:
            return Counter(dict(await connection.fetch(ADD, *statements[0], copies)))
        added: Counter[str] = Counter()
        async with connection.transaction():
            for values in statements:
                added.update(dict(await connection.fetch(ADD, *values, copies)))
        return added

    async def _connect(self) -> PostgresConnection:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._server.connect()
        return self._connection

    async def _recount(self, connection: PostgresConnection) -> None:
        await self._read_groups(connection)
        row = await connection.fetchrow(COUNT)
        assert row is not None
        self.statistics.counts = {state: row[state] for state in STATES if row[state]}

    async def _read_groups(self, connection: PostgresConnection) -> None:
        self._groups.replace(await connection.fetch("SELECT id, flow, step, type FROM groups"))

    def _note_error(self, error: Exception) -> None:
        if is_connection_error(error.__cause__ or error):
            self._disconnect()  # a statement that timed out may still run, and would answer the next one

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()


def replace_nul(column: Sequence[Any]) -> Sequence[Any]:
    r"""Replace NUL in texts, which PostgreSQL rejects, by the escape of JSON, `\u0000`."""
    if any(text is not None and "\0" in text for text in column):
        return [text and text.replace("\0", "\\u0000") for text in column]
    return column


def _statements(batches: Sequence[Columns]) -> Iterator[list[Sequence[Any]]]:
    """Return the arguments of `ADD`, as many letters in each as `STATEMENT_BYTES` allow."""
    columns = [[value for batch in batches for value in batch[column]] for column in range(_WIDTH)]
    start, size = 0, 0
    for position, (original, found) in enumerate(zip(columns[_INPUT], columns[_FOUND], strict=True)):
        length = len(original) + len(found or "")
        if size and size + length > STATEMENT_BYTES:
            yield _with_patterns([column[start:position] for column in columns])
            start, size = position, 0
        size += length
    yield _with_patterns(columns if start == 0 else [column[start:] for column in columns])


def _with_patterns(columns: list[list[Any]]) -> list[Sequence[Any]]:
    places = {id: place for place, id in enumerate(columns[_GROUP_ID])}
    patterns = [
        pattern_in(id, columns[_FLOW][at], columns[_STEP][at], columns[_TYPE][at], columns[_MESSAGE][at])
        for id, at in places.items()
    ]
    return [*columns, list(places), patterns]
