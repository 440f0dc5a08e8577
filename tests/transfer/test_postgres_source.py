"""PostgresSource: rows of a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, TypedDict

import pytest
from structlog.testing import capture_logs

from penstock import Flow, FlowDefinitionError, RunError
from penstock.sources import PostgresSource, row_reader
from servers import PostgresServer, new_name


class Item(TypedDict):
    """A row."""

    id: int
    name: str


class Table:
    """A table of one test."""

    def __init__(self, server: PostgresServer, columns: str, rows: str = "") -> None:
        self.server = server
        self.name = new_name()
        self.url = server.url
        server.execute(f"create table {self.name} ({columns})")
        if rows:
            server.execute(f"insert into {self.name} {rows}")

    def source(self, query: str = "{}", key: str = "id", **options: Any) -> PostgresSource:
        """A source of the table."""
        return PostgresSource(self.url, query.format(self.name), key, **options)


@pytest.fixture
def numbers(postgres_server: PostgresServer) -> Table:
    """The numbers from 1 to 5000, not in the order in which they are stored."""
    rows = "select id, 'n' || id from generate_series(5000, 1, -1) id"
    return Table(postgres_server, "id integer primary key, name text", rows)


async def values_of(source: PostgresSource, flow: Flow[Any] | None = None) -> list[Any]:
    """The results of one run."""
    return [result.value async for result in (flow or Flow("in")).stream(source) if result.ok]


@pytest.mark.parametrize("batch", [7, 1000, 5000, 100_000])
async def test_all_rows_are_read_in_the_order_of_the_key(numbers: Table, batch: int) -> None:
    """Each once, whatever the size of a batch is."""
    found = await values_of(numbers.source(batch=batch))
    assert found == [{"id": n, "name": f"n{n}"} for n in range(1, 5001)]


async def test_a_key_of_type_character(postgres_server: PostgresServer) -> None:
    """The rows behind a key are those behind all of its characters."""
    table = Table(postgres_server, "id char(3)", "values ('AAA'), ('AAB'), ('ABA'), ('B')")
    flow = Flow[Any]("in").window(1)
    async with asyncio.timeout(5):
        found = [result.value async for result in flow.stream(table.source(batch=1)) if result.ok][:10]
    assert [value["id"].strip() for value in found] == ["AAA", "AAB", "ABA", "B"]


async def test_a_query(numbers: Table) -> None:
    """With a key of its own."""
    source = numbers.source("select name as key, id * 2 as twice from {} where id <= 12;", "key")
    found = await values_of(source)
    assert [row["key"] for row in found] == sorted(f"n{n}" for n in range(1, 13))
    assert found[0] == {"key": "n1", "twice": 2}


TYPES = {
    "bigint": ["-5", "7", str(2**60)],
    "text": ["", 'a"', "b\\", "ü"],
    "timestamptz": ["2025-03-01T00:00:00.000001+00:00", "2025-03-01T00:00:00.000002+00:00"],
    "double precision": ["0.1", "0.30000000000000004", "1e300"],
    "numeric": ["1.10", "1.11", "1000000000000000000000.5"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000001"],
    "date": ["2025-03-01", "2025-03-02"],
}


@pytest.mark.parametrize("kind", TYPES)
async def test_keys_of_all_types(postgres_server: PostgresServer, kind: str) -> None:
    """Nothing is lost or repeated between two batches of one row."""
    values = TYPES[kind]
    rows = ", ".join(f"('{value}')" for value in values)
    table = Table(postgres_server, f'"The Key" {kind} primary key', f"values {rows}")
    source = table.source(key="The Key", batch=1)
    assert len(await values_of(source)) == len(values)
    assert await values_of(table.source(key="The Key", start=source.position)) == []


async def test_values_are_json(postgres_server: PostgresServer) -> None:
    """As PostgreSQL converts them."""
    table = Table(
        postgres_server,
        "id integer primary key, exact numeric, at timestamptz, doc jsonb, list integer[], nothing text, yes boolean",
        """values (1, 1.5, '2025-03-01T12:00:00Z', '{"a": [1]}', '{1,2}', null, true)""",
    )
    assert await values_of(table.source()) == [
        {
            "id": 1,
            "exact": 1.5,
            "at": "2025-03-01T12:00:00+00:00",
            "doc": {"a": [1]},
            "list": [1, 2],
            "nothing": None,
            "yes": True,
        }
    ]


async def test_an_empty_table(postgres_server: PostgresServer) -> None:
    """Has no rows, also behind a key."""
    table = Table(postgres_server, "id integer primary key")
    assert await values_of(table.source()) == []
    assert await values_of(table.source(start="5")) == []


@pytest.mark.parametrize("how", ["drain", "abort"])
async def test_a_run_continues_from_a_position(numbers: Table, how: str) -> None:
    """Nothing is lost. A drain repeats nothing, an abort at most what was in flight."""
    before = asyncio.all_tasks()
    reported: list[int] = []

    async def slow(row: Any) -> Any:
        await asyncio.sleep(0.001)
        reported.append(row["id"])
        return row

    source = numbers.source(batch=50)
    run = Flow("in").window(32).map_async(slow, max_in_flight=8).start(source)
    while len(reported) < 400:
        await asyncio.sleep(0.002)
    getattr(run, how)()
    await run.finished
    assert asyncio.all_tasks() == before
    rest = [row["id"] for row in await values_of(numbers.source(start=source.position))]
    assert set(reported) | set(rest) == set(range(1, 5001))
    assert len(reported) + len(rest) - 5000 <= (0 if how == "drain" else 32)


async def test_the_window_limits_what_is_read(numbers: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a batch is read ahead, and a batch is no larger than the window needs."""
    fetch, limits = row_reader.RowReader._fetch, list[int]()

    async def recorded(self: Any, last: Any, limit: int) -> Any:
        limits.append(limit)
        return await fetch(self, last, limit)

    monkeypatch.setattr(row_reader.RowReader, "_fetch", recorded)
    seen = 0
    async for _ in Flow("in").window(200).stream(numbers.source()):
        seen += 1
        assert sum(limits) <= seen + 400
    assert seen == 5000
    assert max(limits) <= 200


async def test_a_killed_server(numbers: Table) -> None:
    """Reading continues after its restart: each row once."""
    found: list[int] = []
    restart: asyncio.Future[None] | None = None
    with capture_logs() as logs:
        async for result in Flow("in").window(20).stream(numbers.source()):
            found.append(result.value["id"])
            if len(found) == 500:
                restart = asyncio.ensure_future(asyncio.to_thread(numbers.server.restart))
            if len(found) % 100 == 0:
                await asyncio.sleep(0.05)
    assert restart is not None
    await restart
    assert found == list(range(1, 5001))
    assert any(entry["event"] == "postgres.reconnecting" for entry in logs)


@pytest.mark.parametrize(
    ("query", "key", "reason"),
    [
        ("nowhere", "id", 'relation "nowhere" does not exist'),
        ("{}", "colour", "column r.colour does not exist"),
        ("select 1 as id from {}", "id", "the key id is not unique: several rows have 1"),
        ("select null::integer as id from {} limit 1", "id", "the key id of a row is NULL"),
        ("select id / 100 as id from {}", "id", "the key id is not unique"),
        ("with x as (delete from {} returning id) select id from x", "id", "read-only|must be at the top level"),
    ],
)
async def test_a_query_that_cannot_be_read(numbers: Table, query: str, key: str, reason: str) -> None:
    """The run fails with the reason, and shows no password."""
    url = numbers.url.replace("postgres@", "postgres:s3cret@")
    source = PostgresSource(url, query.format(numbers.name), key, batch=100)
    with pytest.raises(RunError, match=reason) as caught:
        await values_of(source)
    assert "s3cret" not in str(caught.value)
    assert numbers.server.execute(f"select count(*) from {numbers.name}") == "5000"


async def test_equal_keys_at_the_end_of_a_batch(postgres_server: PostgresServer) -> None:
    """The second of them would be skipped."""
    table = Table(postgres_server, "id integer", "values (1), (2), (2), (3)")
    with pytest.raises(RunError, match="several rows have 2"):
        await values_of(table.source(batch=2))


async def test_a_cancelled_run_ends_its_query(postgres_server: PostgresServer) -> None:
    """On the server too."""
    before = asyncio.all_tasks()
    marker = new_name()
    query = f"select 1 as id, '{marker}' as marker from pg_sleep(60)"
    run = Flow("in").start(PostgresSource(postgres_server.url, query, "id"))
    running = f"select count(*) from pg_stat_activity where query like '%{marker}%' and query not like '%activity%'"
    while await asyncio.to_thread(postgres_server.execute, running) == "0":
        await asyncio.sleep(0.02)
    run.abort()
    await run.finished
    assert asyncio.all_tasks() == before
    while await asyncio.to_thread(postgres_server.execute, running) != "0":
        await asyncio.sleep(0.02)


async def test_a_row_that_is_no_item_fails_alone(numbers: Table) -> None:
    """Like a line of a file."""
    numbers.server.execute(f"update {numbers.name} set name = null where id = 3")
    flow = Flow("in", Item).order()
    results = [result async for result in flow.stream(numbers.source("select * from {} where id < 6"))]
    assert [result.ok for result in results] == [True, True, False, True, True]
    assert results[0].ok
    assert json.dumps(results[0].value) == '{"id": 1, "name": "n1"}'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "mysql://x/y"}, "expected postgresql://USER"),
        ({"query": " ; "}, "query: expected the name of a table"),
        ({"key": ""}, "key: expected the name of a column"),
        ({"batch": 0}, "batch: expected an integer >= 1"),
    ],
)
def test_invalid_settings(options: dict[str, Any], message: str) -> None:
    """They are found when the source is made."""
    settings = {"url": "postgresql://host/db", "query": "t", "key": "id"} | options
    with pytest.raises(FlowDefinitionError, match=re.escape(message)):
        PostgresSource(**settings)
