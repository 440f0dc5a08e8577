"""TableSink: rows of a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from structlog.testing import capture_logs

from penstock import Flow, FlowDefinitionError, from_iterable
from penstock.errors import RowRejected, SinkWriteFailed
from penstock.sinks import TableSink
from servers import PostgresServer, new_name

TYPES = """
create domain positive as integer check (value > 0);
create table "All types" (
  id bigint primary key, small smallint, real double precision, exact numeric(12, 3), yes boolean, "text" text,
  short varchar(3), day date, at timestamptz, span interval, token uuid, raw bytea, doc jsonb, plain json,
  numbers integer[], names text[], docs jsonb[], grid integer[], size positive, made text default 'here',
  twice bigint generated always as (id * 2) stored
)
"""


class Table:
    """A table of one test."""

    def __init__(self, server: PostgresServer, columns: str) -> None:
        self.server = server
        self.name = new_name()
        self.url = server.url
        server.execute(f"create table {self.name} ({columns})")

    def sink(self, **options: Any) -> TableSink:
        """A sink for the table."""
        return TableSink(self.url, self.name, **options)

    def rows(self) -> list[list[Any]]:
        """The rows by id, as JSON."""
        query = f"select to_json(array_agg(to_json(t) order by id)) from {self.name} t"
        return [list(row.values()) for row in json.loads(self.server.execute(query) or "[]")]

    def count(self) -> int:
        """The number of rows."""
        return int(self.server.execute(f"select count(*) from {self.name}"))


@pytest.fixture
def orders(postgres_server: PostgresServer) -> Table:
    """A table with a key, a text and a number that has a limit."""
    return Table(postgres_server, "id integer primary key, name text, amount integer check (amount < 100)")


async def write(sink: TableSink, values: Sequence[Any]) -> list[str]:
    """Open a sink, write values, and close it. The errors as texts, empty if a value was written."""
    await sink.open()
    try:
        errors = await sink.write(values)
    finally:
        await sink.aclose()
    return ["" if error is None else str(error) for error in errors or [None] * len(values)]


class Order(msgspec.Struct):
    """An order."""

    id: int
    name: str


@dataclass
class Other:
    """An order that is a dataclass."""

    id: int
    amount: int


@pytest.mark.parametrize("conflict", [{}, {"on_conflict": "skip"}, {"on_conflict": "update", "key": "id"}])
async def test_fields_go_to_the_columns_of_the_same_name(orders: Table, conflict: dict[str, Any]) -> None:
    """Of dicts, Structs and dataclasses; a column without a field has its default."""
    values = [{"name": "a\tb\\n\n", "id": 1}, Order(2, "ü😀"), Other(3, 7), {"id": 4, "name": None}]
    tab = {"id": 5, "name": "\t", "amount": None}
    assert await write(orders.sink(**conflict), [*values, tab]) == [""] * 5
    assert orders.rows() == [
        [1, "a\tb\\n\n", None],
        [2, "ü😀", None],
        [3, None, 7],
        [4, None, None],
        [5, "\t", None],
    ]


@pytest.mark.parametrize("conflict", [{}, {"on_conflict": "skip"}])
async def test_values_are_converted_to_the_types_of_the_table(
    postgres_server: PostgresServer, conflict: dict[str, Any]
) -> None:
    """JSON values and Python's own types; names of tables and columns keep their case."""
    url = postgres_server.new_database()
    database = url.rpartition("/")[2]
    postgres_server.execute(TYPES, database)
    at = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
    python = {"exact": Decimal("1.5"), "day": date(2025, 3, 1), "at": at, "span": timedelta(days=1, seconds=5)}
    python |= {"token": UUID(int=7), "raw": b"\0\xff"}
    texts = {"exact": "1.500", "day": "2025-03-01", "at": "2025-03-01T12:30:00Z", "span": "1 day 00:00:05"}
    texts |= {"token": str(UUID(int=7)), "raw": "\\x00ff"}
    both = {"small": 3, "real": 0.1, "yes": True, "text": 'q"\\', "short": "abc", "doc": {"a": [1, None]}, "plain": "x"}
    both |= {"numbers": [1, None, 3], "names": ['a "b', "c,\\", "{}"], "docs": [{"a": 'x"'}, [1]], "size": 5}
    both |= {"grid": [[1, 2], [3, 4]]}

    errors = await write(
        TableSink(url, "public.All types", **conflict), [{"id": 1} | both | python, {"id": 2} | both | texts]
    )

    assert errors == ["", ""]
    first, second = json.loads(
        postgres_server.execute('select to_json(array_agg(to_json(t) order by id)) from "All types" t', database)
    )
    assert {name: first[name] for name in both} == both
    assert (first["made"], first["twice"], first["exact"], first["raw"]) == ("here", 2, 1.5, "\\x00ff")
    assert second | {"id": 1, "twice": 2} == first


BAD: list[tuple[Any, str]] = [
    ({"id": "x"}, "integer"),
    ({"id": 2**40}, "out of range"),
    ({"id": 50, "amount": 100}, "check constraint"),
    ({"name": "no id"}, "null value"),
    ({"id": 51, "name": "nul \0"}, "NUL"),
    ({"id": 52, "name": "\ud800"}, "surrogates"),
    ({"id": 53, "name": {"a": 1}}, "name: expected a value of type text, got an object"),
    ({"id": 54, "colour": 1}, "there is no column colour"),
    (17, "expected an object"),
    ({}, "none of the columns"),
]


@pytest.mark.parametrize("conflict", [{}, {"on_conflict": "skip"}, {"on_conflict": "update", "key": "id"}])
async def test_a_value_that_does_not_fit_fails_alone(orders: Table, conflict: dict[str, Any]) -> None:
    """The others of the same write are stored."""
    values: list[Any] = [{"id": number, "name": "good"} for number in range(30)]
    for position, (value, _) in enumerate(BAD):
        values.insert(position * 3, value)
    errors = await write(orders.sink(**conflict), values)
    assert orders.count() == 30
    for position, (_, reason) in enumerate(BAD):
        assert reason in errors[position * 3]
    assert len([error for error in errors if error]) == len(BAD)


async def test_a_text_that_is_too_long_is_not_cut(postgres_server: PostgresServer) -> None:
    """An explicit cast to varchar(3) would do that."""
    table = Table(postgres_server, "id integer primary key, short varchar(3)")
    errors = await write(table.sink(on_conflict="skip"), [{"id": 1, "short": "abcd"}, {"id": 2, "short": "abc"}])
    assert "too long" in errors[0]
    assert table.rows() == [[2, "abc"]]


NAMES = ("number", "at", "cells", "v0", "errors", "it's \"a\\", "$penstock$", "order")


@pytest.mark.parametrize("conflict", ["error", "skip", "update"])
async def test_names_of_any_kind(postgres_server: PostgresServer, conflict: Any) -> None:
    """Also those that the statements use themselves."""
    columns = ", ".join('"{}" integer'.format(name.replace('"', '""')) for name in NAMES)
    table = Table(postgres_server, f'{columns}, primary key ("number", at)')
    values: list[Any] = [dict.fromkeys(NAMES, n) for n in range(4)]
    values[2]["order"] = "x"
    values[3][NAMES[5]] = "y"
    key = () if conflict == "error" else ("number", "at")
    errors = await write(table.sink(on_conflict=conflict, key=key), values)
    assert [error.partition(": ")[2].partition(": ")[0] for error in errors] == ["", "", "order", NAMES[5]]
    assert table.count() == 2


async def test_an_existing_key_is_an_error_skipped_or_updated(orders: Table) -> None:
    """As `on_conflict` says. An update changes the columns that the value has."""
    orders.server.execute(f"insert into {orders.name} values (1, 'old', 5)")
    values = [{"id": 1, "name": "new"}, {"id": 2, "name": "other"}]
    (first, second) = await write(orders.sink(), values)
    assert "duplicate key" in first
    assert not second
    await write(orders.sink(on_conflict="skip", key="id"), values)
    assert orders.rows() == [[1, "old", 5], [2, "other", None]]
    await write(orders.sink(on_conflict="update", key="id"), values)
    assert orders.rows() == [[1, "new", 5], [2, "other", None]]


async def test_the_last_of_several_updates_of_one_row_wins(orders: Table) -> None:
    """A statement may update a row once only; the same key may be written in two ways."""
    values = [{"id": 1, "name": f"{number}"} for number in range(5)] + [{"id": "02", "name": "x"}]
    errors = await write(orders.sink(on_conflict="update", key="id"), [*values, {"id": 2, "name": "y"}])
    assert errors == [""] * 7
    assert [row[:2] for row in orders.rows()] == [[1, "4"], [2, "y"]]


async def test_columns_select_fields(orders: Table) -> None:
    """Other fields are not written, and need no column."""
    errors = await write(orders.sink(columns=("id", "name")), [{"id": 1, "name": "a", "amount": 5, "more": [1]}])
    assert errors == [""]
    assert orders.rows() == [[1, "a", None]]


async def test_a_large_input_goes_through_a_flow(orders: Table) -> None:
    """Each value once, and each duplicate is a failed element."""
    values = [{"id": number, "name": f"n{number}"} for number in range(20_000)]
    values[100:100] = values[50:60]
    summary = await Flow("load").to(orders.sink()).run(from_iterable(values))
    assert (summary.ok, summary.failed) == (20_000, 10)
    assert orders.count() == 20_000


@pytest.mark.parametrize(("conflict", "lost"), [({}, True), ({"on_conflict": "skip"}, False)])
async def test_a_broken_connection(orders: Table, conflict: dict[str, Any], lost: bool) -> None:
    """The sink connects again. A write that may be repeated is; a plain insert fails, because it may be stored."""
    server = orders.server
    blocked = {"id": 1, "name": "waits"}
    sink = orders.sink(**conflict)
    await sink.open()
    lock = await asyncio.create_subprocess_exec(
        *(str(server._programs / "psql"), "-X", "-q", server.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert lock.stdin is not None
    assert lock.stdout is not None
    lock.stdin.write(f"begin; lock table {orders.name}; select 'locked';\n".encode())
    while b"locked" not in await lock.stdout.readline():
        pass
    writing = asyncio.create_task(sink.write([blocked]))
    waiting = f"wait_event_type = 'Lock' and query ilike '%{orders.name}%'"
    query = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {waiting}"
    while not writing.done() and server.execute(query) == "0":
        await asyncio.sleep(0.05)
    lock.stdin.write(b"commit;\n")
    lock.stdin.close()
    await lock.wait()
    if lost:
        with pytest.raises(SinkWriteFailed, match="may have been written or not; set on_conflict"):
            await writing
        assert await sink.write([blocked]) is None
    else:
        assert await writing is None
    await sink.aclose()
    assert orders.count() == 1


async def test_writers_that_block_each_other(orders: Table) -> None:
    """Updates of the same rows in another order: the database ends one of them, and it is repeated."""
    sinks = [orders.sink(on_conflict="update", key="id") for _ in range(2)]
    for sink in sinks:
        await sink.open()
    values = [{"id": number, "name": "x"} for number in range(3000)]
    with capture_logs() as logs:
        for _ in range(40):
            assert await asyncio.gather(sinks[0].write(values), sinks[1].write(values[::-1])) == [None, None]
            if any(entry["event"] == "sink.write_retried" for entry in logs):
                break
    for sink in sinks:
        await sink.aclose()
    assert any("deadlock" in entry["error"] for entry in logs)
    assert orders.count() == 3000


async def test_a_server_that_is_killed_and_restarted(orders: Table) -> None:
    """With on_conflict nothing is lost or doubled; elements wait while the server is away."""
    values = [{"id": number, "name": "x"} for number in range(6_000)]
    sent = 0

    def counted() -> Any:
        nonlocal sent
        for value in values:
            sent += 1
            yield value

    flow = Flow("load").window(64).to(orders.sink(on_conflict="skip", key="id"))

    async def failures() -> list[str]:
        return [str(result) async for result in flow.stream(from_iterable(counted())) if not result.ok]

    with capture_logs():
        failed = asyncio.create_task(failures())
        while sent < 1_000:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(orders.server.restart)
        assert await failed == []
    assert orders.count() == 6_000


async def test_a_cancelled_write_leaves_nothing(orders: Table) -> None:
    """No rows, no tasks, and no connection."""
    server = orders.server
    before = asyncio.all_tasks()
    server.execute(
        f"create function {orders.name}() returns trigger language plpgsql as "
        f"$$ begin perform pg_sleep(30); return new; end $$; create trigger slow before insert on {orders.name} "
        f"for each row execute function {orders.name}()"
    )
    run = Flow("load").to(orders.sink()).start(from_iterable([{"id": 1}]))
    while not (
        await asyncio.to_thread(
            server.execute, f"select 1 from pg_stat_activity where query ilike 'copy %{orders.name}%'"
        )
    ):
        await asyncio.sleep(0.02)
    run.abort()
    summary = await run.finished
    await asyncio.sleep(0)
    assert summary.cancelled == 1
    assert asyncio.all_tasks() == before
    connections = f"select count(*) from pg_stat_activity where query ilike 'copy %{orders.name}%'"
    while await asyncio.to_thread(server.execute, connections) != "0":
        await asyncio.sleep(0.02)
    assert orders.count() == 0


async def test_a_table_that_does_not_exist(postgres_server: PostgresServer, orders: Table) -> None:
    """The message says what to do, and has no password."""
    url = postgres_server.url.replace("//postgres@", "//postgres:s3cret@")
    with pytest.raises(
        SinkWriteFailed, match=r"table nowhere of postgresql://127.*: there is no table nowhere; create"
    ):
        await TableSink(url, "nowhere").open()
    with pytest.raises(SinkWriteFailed, match="has no column b; it has id, name, amount"):
        await orders.sink(columns=("id", "b")).open()
    with pytest.raises(SinkWriteFailed, match="cannot reach the server"):
        await TableSink("postgresql://postgres:s3cret@127.0.0.1:1/postgres", "t").open()
    assert "s3cret" not in TableSink(url, "t").title


async def test_a_table_that_changes_is_read_again(orders: Table) -> None:
    """The first write after the change may fail, the next one does not."""
    sink = orders.sink()
    await sink.open()
    await sink.write([{"id": 1}])
    orders.server.execute(f"alter table {orders.name} rename name to title")
    with pytest.raises(SinkWriteFailed):
        await sink.write([{"id": 2, "name": "x"}])
    assert await sink.write([{"id": 3, "title": "x"}]) is None
    await sink.aclose()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": ""}, "table: expected a name"),
        ({"table": "a.b.c"}, "table: expected a name"),
        ({"url": "mysql://x/y"}, "expected postgresql://USER"),
        ({"url": "postgresql://me:a/b@host/db"}, "%2F"),
        ({"on_conflict": "ignore"}, "on_conflict: expected error, skip or update"),
        ({"on_conflict": "update"}, "key: expected the columns"),
        ({"key": "id"}, "key: expected only with on_conflict"),
        ({"columns": []}, "columns: expected names"),
        ({"on_conflict": "skip", "key": "id", "columns": ["a"]}, "columns: expected also those of the key: id"),
    ],
)
def test_invalid_settings(options: dict[str, Any], message: str) -> None:
    """They are found when the sink is made."""
    settings = {"url": "postgresql://host/db", "table": "t"} | options
    with pytest.raises(FlowDefinitionError, match=message):
        TableSink(**settings)


def test_a_rejected_row_names_the_table() -> None:
    """For the failure of the element."""
    assert str(RowRejected("orders", "id: out of range")) == "the table orders rejected the row: id: out of range"
