"""Write rows to a table of PostgreSQL: many with one statement, and those that it rejects apart from the others."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.backends.postgres import (
    PostgresConnection,
    PostgresServer,
    asyncpg,
    is_connection_error,
    message_of,
    quote_name,
    reason_of,
)
from penstock.errors import RowRejected, SinkUnreachable, SinkWriteFailed, describe
from penstock.services.retry import Backoff
from penstock.sinks.table_inserts import Statements
from penstock.sinks.table_rows import Column, Group, Row, copy_line, group_rows
from penstock.support.logger import get_logger

log = get_logger()

RETRY_SECONDS = 25.0
"""Time in which a write connects again. It is less than the default timeout of the step `to`, which has no reason."""

CLOSE_SECONDS = 5.0
"""Timeout of disconnecting."""

CANCEL_SECONDS = 0.8
"""Timeout of cancelling a statement. The step `to` waits for a second."""

BACKOFF = Backoff(first=0.1, cap=2.0)

_ROW_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.PLPGSQLError,  # raised by a trigger
    asyncpg.WithCheckOptionViolationError,
    asyncpg.CardinalityViolationError,  # a key twice in one update, in two notations
    asyncpg.ProgramLimitExceededError,  # such as a value too long for an index
)
"""Errors that concern a row, not the table or the server. `ROW_CONDITIONS` are the same."""

_COLUMNS = """
select a.attname as name, format_type(t.oid, -1) as type, t.typcategory::text as category,
       a.attgenerated::text as generated
from pg_attribute a
join pg_type d on d.oid = a.atttypid
join pg_type t on t.oid = case when d.typtype = 'd' then d.typbasetype else d.oid end
where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""


class TableWriter:
    """A connection to a table. `title` and `server` are for messages and connecting; one call at a time."""

    def __init__(
        self,
        server: PostgresServer,
        table: str,
        title: str,
        *,
        columns: Sequence[str] | None,
        conflict: str,
        key: Sequence[str],
    ) -> None:
        self._server = server
        self._table = table
        self._title = title
        self._schema, _, self._name = table.rpartition(".")
        self._quoted = ".".join(map(quote_name, (self._schema, self._name) if self._schema else (self._name,)))
        self._selected = columns
        self._conflict = conflict
        self._key = tuple(key)
        self._statements = Statements(self._quoted, conflict, self._key)
        self._columns: Mapping[str, Column] = {}
        self._connection: PostgresConnection | None = None
        self._rng = random.Random()  # noqa: S311 - jitter, no secret

    async def open(self) -> None:
        """Connect, and read the columns of the table. Raises `SinkWriteFailed`."""
        try:
            await self._connect()
        except SinkWriteFailed:
            raise
        except Exception as error:
            raise self._failed(error) from error

    async def aclose(self) -> None:
        """Disconnect."""
        await self._disconnect(CLOSE_SECONDS)

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Write values. Return the errors of those that were rejected. Raises `SinkWriteFailed` for all.

        If the connection broke in a plain insert, it is unknown whether the values were written.
        """
        give_up_at = asyncio.get_running_loop().time() + RETRY_SECONDS
        await self._reconnect(give_up_at)
        errors: list[Exception | None] = [None] * len(values)
        groups = self._encode(values, errors)
        for index, (columns, rows) in enumerate(groups):
            try:
                await self._write_group(columns, rows, errors, give_up_at)
            except SinkWriteFailed as error:
                if not index:
                    raise
                for _, unwritten in groups[index:]:
                    for number, _ in unwritten:
                        errors[number] = error
                break
        return errors if any(errors) else None

    def _encode(self, values: Sequence[Any], errors: list[Exception | None]) -> Sequence[Group]:
        """Encode values as rows, in groups. Those that are no rows get errors."""
        unique = self._key if self._conflict == "update" else ()
        groups, invalid = group_rows(values, self._columns, selected=self._selected, unique=unique)
        for number, error in invalid:
            rejection = RowRejected(self._table, describe(error))
            rejection.__cause__ = error
            errors[number] = rejection
        return groups

    async def _write_group(
        self, columns: tuple[Column, ...], rows: list[Row], errors: list[Exception | None], give_up_at: float
    ) -> None:
        """Write rows. After a lost connection, writes that may be repeated are repeated on another one."""
        attempt = 0
        while True:
            connection = await self._reconnect(give_up_at)
            try:
                await self._insert_or_find(connection, columns, rows, errors)
                return
            except asyncpg.TransactionRollbackError as error:  # such as a deadlock of two writers: nothing was written
                attempt += 1
                await self._wait(attempt, give_up_at, error)
            except Exception as error:
                await self._disconnect(CANCEL_SECONDS)
                if not is_connection_error(error):
                    raise self._failed(error) from error
                if self._conflict == "error":
                    reason = (
                        f"the connection broke ({reason_of(error)}); these values may have been written or not; "
                        "set on_conflict to skip or update, then such writes are repeated"
                    )
                    raise SinkWriteFailed(self._title, reason) from error
                attempt += 1
                await self._wait(attempt, give_up_at, error)
            except BaseException:
                await self._disconnect(CANCEL_SECONDS)
                raise

    async def _reconnect(self, give_up_at: float) -> PostgresConnection:
        """Return the connection. Restore it if it is lost."""
        attempt = 0
        while self._connection is None or self._connection.is_closed():
            try:
                return await self._connect()
            except SinkWriteFailed:
                raise
            except Exception as error:
                if not is_connection_error(error):
                    raise self._failed(error) from error
                attempt += 1
                await self._wait(attempt, give_up_at, error)
        return self._connection

    async def _wait(self, attempt: int, give_up_at: float, error: Exception) -> None:
        """Wait before another attempt. Raises `SinkWriteFailed` if there is no time left for one."""
        seconds = BACKOFF.seconds(attempt, self._rng)
        if asyncio.get_running_loop().time() + seconds >= give_up_at:
            raise self._failed(error) from error
        log.warning("sink.write_retried", sink=self._title, error=reason_of(error), retry_in=round(seconds, 3))
        await asyncio.sleep(seconds)

    async def _insert_or_find(
        self,
        connection: PostgresConnection,
        columns: tuple[Column, ...],
        rows: list[Row],
        errors: list[Exception | None],
    ) -> None:
        """Insert all rows with one statement. If that is rejected, insert them one by one, in one transaction."""
        try:
            await self._insert(connection, columns, rows)
            return
        except _ROW_ERRORS:
            pass
        async with connection.transaction():
            await connection.execute("set constraints all immediate")  # deferred ones would fail all rows at the end
            cells = msgspec.json.encode([cells for _, cells in rows]).decode()
            await connection.fetchval("select set_config('penstock.rows', $1, true) is null", cells)
            await connection.execute(self._statements.one_by_one(columns))
            found = await connection.fetchval("select current_setting('penstock.errors')")
        for index, column, message in msgspec.json.decode(found, type=list[tuple[int, str | None, str]]):
            reason = message if column is None else f"{column}: {message}"
            errors[rows[index][0]] = RowRejected(self._table, reason)

    async def _insert(self, connection: PostgresConnection, columns: tuple[Column, ...], rows: Sequence[Row]) -> None:
        if self._conflict == "error":
            lines = "".join(copy_line(cells) for _, cells in rows)
            await connection.copy_to_table(
                self._name,
                schema_name=self._schema or None,
                columns=[column.name for column in columns],
                source=io.BytesIO(lines.encode()),
                format="text",
            )
            return
        texts = [[cells[position] for _, cells in rows] for position in range(len(columns))]
        await connection.execute(self._statements.many(columns), *texts)

    async def _connect(self) -> PostgresConnection:
        connection = await self._server.connect()
        try:
            found = await connection.fetch(_COLUMNS, self._quoted)
            self._columns = {
                row["name"]: Column(row["name"], row["type"], row["category"], row["type"] in ("json", "jsonb"))
                for row in found
                if not row["generated"]
            }
            self._check_columns()
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return connection

    def _check_columns(self) -> None:
        if not self._columns:
            raise SinkWriteFailed(
                self._title, f"there is no table {self._table}; create it, or name it with its schema: SCHEMA.TABLE"
            )
        missing = [name for name in (*(self._selected or ()), *self._key) if name not in self._columns]
        if missing:
            raise SinkWriteFailed(
                self._title, f"the table has no column {', '.join(missing)}; it has {', '.join(self._columns)}"
            )

    async def _disconnect(self, seconds: float) -> None:
        """Close the connection, after the server has cancelled a statement that still runs.

        Closing the socket only would not stop it, and it would be committed.
        """
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await connection.close(timeout=seconds)
        except Exception:
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise

    def _failed(self, error: Exception) -> SinkWriteFailed:
        if is_connection_error(error):
            return SinkUnreachable(self._title, f"cannot reach the server ({reason_of(error)}); check host and port")
        return SinkWriteFailed(self._title, message_of(error))
