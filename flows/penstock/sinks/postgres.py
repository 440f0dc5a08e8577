"""TableSink: inserts values into a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from penstock.backends.extras import require_extra
from penstock.backends.server_url import check_postgres_url, hide_password
from penstock.errors import FlowDefinitionError, SinkWriteFailed
from penstock.support.environment import display_text, substitute

if TYPE_CHECKING:
    from penstock.sinks.table_writer import TableWriter

OnConflict = Literal["error", "skip", "update"]


@dataclass(unsafe_hash=True)
class TableSink:
    """Inserts values into a table: the fields of an object go to the columns of the same names.

    `url` is as for dead letters, `postgresql://USER:PASSWORD@HOST/DATABASE`, and may contain variables. Tables are
    found by the search path of the database; `?search_path=` of the URL changes it. `table` is a name or SCHEMA.NAME,
    written as in the catalogue (with the same case).

    A column that a value has no field for gets its default. A field without a column is an error of its element, unless
    `columns` names the fields to write. Values are converted by PostgreSQL to the types of the columns: texts and
    numbers as `psql` would read them, timestamps in ISO 8601, any value into `json` and `jsonb`, arrays into arrays. A
    value that does not fit, or that a constraint or trigger rejects, fails alone, as `RowRejected`.

    `on_conflict` is what happens to a value whose key exists:

    - `error` (default): it fails. Rows are written with COPY. If the connection breaks in a write, its elements fail,
      because it is unknown whether they were written; later writes connect again.
    - `skip`: the row stays as it is; `update`: the columns that the value has are replaced. `key` names the columns of
      a unique index; for `skip` it may be empty, for any conflict. If the connection breaks, the write is repeated for
      up to 25 seconds, and no row is doubled.

    While the server cannot be reached, values that were not written wait.

    A write is one transaction for all values with the same fields, and is durable when it returns
    (`synchronous_commit`).

    Raises `FlowDefinitionError` for invalid settings. The package of `penstock[postgres]` is needed.

    >>> sink = TableSink("postgresql://me@localhost/shop", "orders", on_conflict="update", key=("id",))
    """

    url: str
    table: str
    columns: tuple[str, ...] | None = field(default=None, kw_only=True)
    on_conflict: OnConflict = field(default="error", kw_only=True)
    key: tuple[str, ...] = field(default=(), kw_only=True)
    name: str = field(default="", kw_only=True, compare=False)
    _writer: TableWriter | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.key = _names("key", self.key)
        self.columns = None if self.columns is None else _names("columns", self.columns)
        require_extra("postgres", "TableSink")
        check_postgres_url(self.url, "TableSink")
        if not all(self.table.split(".")) or self.table.count(".") > 1 or "\0" in self.table:
            raise FlowDefinitionError(f"table: expected a name, or SCHEMA.NAME, got {self.table!r}")
        if self.on_conflict not in get_args(OnConflict):
            raise FlowDefinitionError(f"on_conflict: expected error, skip or update, got {self.on_conflict!r}")
        if self.on_conflict == "update" and not self.key:
            raise FlowDefinitionError("key: expected the columns of a unique index, because on_conflict is update")
        if self.on_conflict == "error" and self.key:
            raise FlowDefinitionError("key: expected only with on_conflict skip or update")
        if self.columns is not None and (missing := set(self.key) - set(self.columns)):
            raise FlowDefinitionError(f"columns: expected also those of the key: {', '.join(sorted(missing))}")

    @property
    def repeatable(self) -> bool:
        """Whether values may be written again that may have been written."""
        return self.on_conflict != "error"

    @property
    def title(self) -> str:
        """The table and its URL, for messages."""
        return f"table {self.table} of {hide_password(display_text(self.url))}"

    async def open(self) -> None:
        """Connect, and read the columns of the table. Raises `SinkWriteFailed`."""
        from penstock.backends.postgres import USER_SETTINGS, PostgresServer  # imports the client
        from penstock.sinks.table_writer import TableWriter

        try:
            server = PostgresServer.of(substitute(self.url), USER_SETTINGS)
        except ValueError as error:
            raise SinkWriteFailed(self.title, f"invalid URL: {error}") from error
        writer = TableWriter(
            server, self.table, self.title, columns=self.columns, conflict=self.on_conflict, key=self.key
        )
        await writer.open()
        self._writer = writer

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Insert values. Return the errors of those that are rejected. Raises `SinkWriteFailed`."""
        if self._writer is None:
            raise SinkWriteFailed(self.title, "it is not open")
        return await self._writer.write(values)

    async def aclose(self) -> None:
        """Disconnect."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.aclose()


def _names(setting: str, names: Sequence[str]) -> tuple[str, ...]:
    """Check names of columns. A text is one name."""
    listed = (names,) if isinstance(names, str) else tuple(names)
    if not all(listed) or len(set(listed)) < len(listed) or (setting == "columns" and not listed):
        raise FlowDefinitionError(f"{setting}: expected names of columns, each once, got {names!r}")
    return listed
