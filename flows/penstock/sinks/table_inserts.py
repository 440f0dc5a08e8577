"""Build the statements that insert rows into a table of PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.backends.postgres import quote_name
from penstock.sinks.table_rows import Column

ROW_CONDITIONS = (
    "data_exception",
    "integrity_constraint_violation",
    "plpgsql_error",
    "with_check_option_violation",
    "cardinality_violation",
    "program_limit_exceeded",
)
"""Classes of errors that concern a row. https://www.postgresql.org/docs/current/errcodes-appendix.html"""


class Statements:
    """The statements for one table. `table` is its quoted name, `conflict` is `error`, `skip` or `update`."""

    def __init__(self, table: str, conflict: str, key: Sequence[str]) -> None:
        self._table = table
        self._conflict = conflict
        self._key = key

    def many(self, columns: Sequence[Column]) -> str:
        """Return the insert of rows that are given as one array of texts for each column.

        The texts are cast to the types without their lengths: an explicit cast would cut a text that is too long.
        """
        numbers = range(len(columns))
        values = ", ".join(f"v{number}::{columns[number].type}" for number in numbers)
        arrays = ", ".join(f"${number + 1}::text[]" for number in numbers)
        aliases = ", ".join(f"v{number}" for number in numbers)
        rows = f"select {values} from unnest({arrays}) as r({aliases})"  # noqa: S608 - types and positions only
        return f"{self._insert(columns)} {rows} {self._action(columns)}"

    def one_by_one(self, columns: Sequence[Column]) -> str:
        """Return a block that inserts each row of the setting `penstock.rows`, a JSON array of arrays of texts.

        The setting `penstock.errors` then has the position, the column, if it is known, and the message of each row
        that was rejected. One request for all rows: with a savepoint and a request for each, a batch of invalid rows
        would exceed its timeout.
        """
        numbers = range(len(columns))
        variables = " ".join(f"v{number} {columns[number].type};" for number in numbers)
        casts = " ".join(f"at := {number}; v{number} := cells->>{number};" for number in numbers)
        values = ", ".join(f"v{number}" for number in numbers)
        names = ", ".join(_literal(column.name) for column in columns)
        block = f"""
            #variable_conflict use_column
            declare
                cells jsonb; at integer; number integer := 0; errors jsonb := '[]'; named text[] := array[{names}];
                {variables}
            begin
                for cells in select jsonb_array_elements(current_setting('penstock.rows')::jsonb) loop
                    begin
                        {casts}
                        at := null;
                        {self._insert(columns)} values ({values}) {self._action(columns)};
                    exception when {" or ".join(ROW_CONDITIONS)} then
                        errors := errors || jsonb_build_array(jsonb_build_array(number, named[at + 1], sqlerrm));
                    end;
                    number := number + 1;
                end loop;
                perform set_config('penstock.errors', errors::text, true);
            end
        """
        return f"do {_literal(block)}"

    def _insert(self, columns: Sequence[Column]) -> str:
        return f"insert into {self._table} ({', '.join(quote_name(column.name) for column in columns)})"

    def _action(self, columns: Sequence[Column]) -> str:
        if self._conflict == "error":
            return ""
        target = f" ({', '.join(map(quote_name, self._key))})" if self._key else ""
        others = [quote_name(column.name) for column in columns if column.name not in self._key]
        if self._conflict == "skip" or not others:
            return f"on conflict{target} do nothing"
        return f"on conflict{target} do update set {', '.join(f'{name} = excluded.{name}' for name in others)}"


def _literal(text: str) -> str:
    """Return a text as SQL has it, whatever the server is set to do with backslashes."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{quoted}'"
