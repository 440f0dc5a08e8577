"""PostgresSource: the rows of a table or a query, read by key range."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from penstock.backends.extras import require_extra
from penstock.backends.server_url import check_postgres_url, hide_password
from penstock.errors import FlowDefinitionError
from penstock.sources.source import Emitter, Source
from penstock.support.environment import display_text, substitute

_TABLE = re.compile(r'[^\s.()";]+(\.[^\s.()";]+)?')
"""A name of a table, as opposed to a query."""


@dataclass(unsafe_hash=True)
class PostgresSource(Source[bytes]):
    """The rows of a table or a query, each as a JSON object, in the order of a key.

    `url` is as for dead letters, `postgresql://USER:PASSWORD@HOST/DATABASE`, and may contain variables. `query` is the
    name of a table, or SCHEMA.NAME, as written in the catalogue, or a `select`. `key` is the column by which the rows
    are read: unique, never NULL, and with an index. Rows are read in batches, `where key > LAST order by key limit N`,
    each with a query of its own: no transaction stays open, and a row that is inserted behind the last one meanwhile is
    read too. N is at most `batch`, and follows the free window. The connection is read-only.

    `start` is the key after which the first run begins, as text. `position` is how far the last run was: the key of the
    last of the rows before which all are settled. A run that continues from there loses nothing, and repeats what was
    in flight. A lost connection is restored for up to a minute.

    PostgreSQL converts rows to JSON (`to_json`): timestamps become texts in ISO 8601, numbers stay numbers.

    Raises `FlowDefinitionError` for invalid settings. Fails with `QueryFailed`. The package of `penstock[postgres]` is
    needed.

    >>> source = PostgresSource("postgresql://me@localhost/shop", "orders", "id", start="41")
    """

    name = "postgres"

    url: str
    query: str
    key: str
    batch: int = field(default=1000, kw_only=True)
    start: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__init__()
        require_extra("postgres", "PostgresSource")
        check_postgres_url(self.url, "PostgresSource")
        self.query = self.query.strip().rstrip(";").rstrip()
        self.start = None if self.start is None else str(self.start)
        self.position = self.start
        if not self.query or "\0" in self.query:
            raise FlowDefinitionError(f"query: expected the name of a table, or a select, got {self.query!r}")
        if not self.key or "\0" in self.key:
            raise FlowDefinitionError(f"key: expected the name of a column, got {self.key!r}")
        if self.batch < 1:
            raise FlowDefinitionError(f"batch: expected an integer >= 1, got {self.batch!r}")

    @property
    def title(self) -> str:
        """The URL and what is read, for messages."""
        subject = f"table {self.query}" if self.table is not None else "a query"
        return f"{subject} of {hide_password(display_text(self.url))}"

    @property
    def table(self) -> tuple[str, ...] | None:
        """The name of the table, after that of its schema if there is one; None for a query."""
        return tuple(self.query.split(".")) if _TABLE.fullmatch(self.query) else None

    async def produce(self, emitter: Emitter[bytes]) -> None:
        from penstock.backends.postgres import USER_SETTINGS, PostgresServer  # imports the client
        from penstock.sources.row_reader import RowReader

        self.position = self.start
        settings = USER_SETTINGS | {"default_transaction_read_only": "on"}
        try:
            server = PostgresServer.of(substitute(self.url), settings)
        except ValueError as error:
            raise FlowDefinitionError(f"PostgresSource: invalid URL: {error}") from error
        reader = RowReader(self, server, emitter, self._advance)
        try:
            await reader.read()
        finally:
            await reader.aclose()

    def _advance(self, position: str) -> None:
        self.position = position
