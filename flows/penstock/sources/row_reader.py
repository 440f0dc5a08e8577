"""Read the rows of a query in batches, each after the last key of the one before (keyset pagination)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from penstock.backends.postgres import (
    PostgresConnection,
    PostgresServer,
    is_connection_error,
    message_of,
    quote_name,
    reason_of,
)
from penstock.core.element import CANCELLED, Element, Outcome
from penstock.errors import QueryFailed
from penstock.sources.source import Emitter
from penstock.support.logger import get_logger

if TYPE_CHECKING:
    from penstock.sources.postgres import PostgresSource

log = get_logger()

RETRY_SECONDS = 60.0
"""Time in which a lost connection is restored."""

CLOSE_SECONDS = 2.0
"""Timeout of disconnecting, which cancels a query that still runs."""

MIN_ROWS = 100
"""Rows of a batch that are read although the window has less room: a query for every free credit would be slow."""


class RowReader:
    """Reads the rows of one run. `on_advance` is called with the key up to which all rows are settled."""

    def __init__(
        self,
        source: PostgresSource,
        server: PostgresServer,
        emitter: Emitter[bytes],
        on_advance: Callable[[str], None],
    ) -> None:
        self._source = source
        self._server = server
        self._emitter = emitter
        self._on_advance = on_advance
        self._connection: PostgresConnection | None = None
        self._key_type = ""
        self._keys: dict[int, str] = {}
        """The keys of rows that are not settled, or that have such a row before them, by sequence number."""
        self._first = 0
        """The first sequence number that is not settled."""
        self._settled: set[int] = set()

    async def read(self) -> None:
        """Emit all rows. Raises `QueryFailed`."""
        self._first = self._emitter.seq
        self._emitter.ledger.watch(self._on_settled)
        last = self._source.start
        while True:
            free = await self._emitter.wait_for_capacity()
            limit = min(self._source.batch, max(free, MIN_ROWS))
            rows = await self._next(last, limit)
            if rows:
                self._check(rows)
                last = rows[-1]["key"]
                self._keys |= {seq: row["key"] for seq, row in enumerate(rows, self._emitter.seq)}
                values = [row["row"].encode() for row in rows]
                await self._emitter.send(values, list(map(len, values)))
            if len(rows) < limit:
                return

    async def aclose(self) -> None:
        """Disconnect. A query that still runs is cancelled."""
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await connection.close(timeout=CLOSE_SECONDS)
        except Exception:
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise

    async def _next(self, last: str | None, limit: int) -> Sequence[Any]:
        """Return the rows behind a key. Connects again if the connection is lost."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + RETRY_SECONDS
        wait = 0.1
        while True:
            try:
                return await self._fetch(last, limit)
            except Exception as error:
                await self.aclose()
                if not is_connection_error(error):
                    raise QueryFailed(self._source.title, message_of(error)) from error
                if loop.time() + wait > give_up_at:
                    raise QueryFailed(self._source.title, f"cannot reach the server ({reason_of(error)})") from error
                log.warning("postgres.reconnecting", source=self._source.title, error=reason_of(error))
            await asyncio.sleep(wait)
            wait = min(2 * wait, 5.0)

    async def _fetch(self, last: str | None, limit: int) -> Sequence[Any]:
        """Return rows, with their keys as texts, and one row more to find equal keys at the end."""
        connection = self._connection
        if connection is None or connection.is_closed():
            self._connection = connection = await self._server.connect()
        key = f"r.{quote_name(self._source.key)}"
        if not self._key_type:
            self._key_type = await self._type_of(connection, key)
        values: list[Any] = [limit + 1]
        where = ""
        if last is not None:
            where = f"where {key} > $2::text::{self._key_type}"
            values.append(last)
        rows = await connection.fetch(
            f"select {key}::text as key, to_json(r)::text as row from {self._rows} r {where} order by {key} limit $1",  # noqa: S608 - names are quoted, and the query is the user's
            *values,
        )
        if len(rows) > limit and rows[limit]["key"] == rows[limit - 1]["key"]:
            raise self._ambiguous(rows[limit]["key"])
        return rows[:limit]

    async def _type_of(self, connection: PostgresConnection, key: str) -> str:
        """Return the type of the key, as SQL has it."""
        described = await connection.prepare(f"select {key} from {self._rows} r limit 0")  # noqa: S608 - as above
        found: str = await connection.fetchval(
            "select format_type($1::oid, -1)", described.get_attributes()[0].type.oid
        )
        return found

    @property
    def _rows(self) -> str:
        table = self._source.table
        return f"({self._source.query})" if table is None else ".".join(map(quote_name, table))

    def _check(self, rows: Sequence[Any]) -> None:
        """Raise `QueryFailed` for a key by which rows cannot be read: some would be skipped."""
        keys = [row["key"] for row in rows]
        if keys[-1] is None:
            raise QueryFailed(self._source.title, f"the key {self._source.key} of a row is NULL; name another column")
        for one, other in pairwise(keys):
            if one == other:
                raise self._ambiguous(one)

    def _ambiguous(self, key: str | None) -> QueryFailed:
        reason = f"the key {self._source.key} is not unique: several rows have {key}; name another column"
        return QueryFailed(self._source.title, reason)

    def _on_settled(self, element: Element[Any], outcome: Outcome) -> None:
        if element.parent is not None or outcome is CANCELLED:
            return
        self._settled.add(element.seq)
        last: str | None = None
        while self._first in self._settled:
            self._settled.remove(self._first)
            last = self._keys.pop(self._first)
            self._first += 1
        if last is not None:
            self._on_advance(last)
