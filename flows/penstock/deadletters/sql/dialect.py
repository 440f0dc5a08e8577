"""What SQLite and PostgreSQL express differently: the clock, lists of texts, and INSERT with ON CONFLICT."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SERVER_CLOCK = cast(func.extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)
"""The time of a PostgreSQL server in microseconds since 1970."""


def clock(connection: Connection) -> int:
    """Return the time in microseconds since 1970: of the server, or of this process for a file on this machine."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    return int(connection.execute(select(SERVER_CLOCK)).scalar_one())


def insert(connection: Connection, table: Table) -> Any:
    """Return an INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)


class _Texts(FunctionElement[str]):
    """The rows of a JSON array of texts: one parameter, so that the statement is the same for any number of them."""

    name = "texts"
    inherit_cache = True
    type = Text()


@compiles(_Texts, "sqlite")
def _sqlite_texts(element: _Texts, compiler: Any, **options: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"  # noqa: S608 - a parameter


@compiles(_Texts, "postgresql")
def _postgres_texts(element: _Texts, compiler: Any, **options: Any) -> str:
    return f"(SELECT jsonb_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS jsonb)))"


def among(column: Column[Any], values: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that a column is one of any number of texts."""
    return column.op("IN", is_comparison=True)(_Texts(literal(texts(values), Text())))


def among_texts(column: Column[Any], name: str) -> ColumnElement[bool]:
    """Return the condition that a column is one of the `texts` that a parameter has.

    For statements that are built once: building one takes longer than SQLite needs for a hundred rows.
    """
    return column.op("IN", is_comparison=True)(_Texts(bindparam(name, type_=Text())))


def texts(values: Iterable[str]) -> str:
    """Encode texts as a parameter of `among_texts`."""
    return json.dumps(list(values))
