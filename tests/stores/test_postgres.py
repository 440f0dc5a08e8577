"""What is special about the store in PostgreSQL; `tests/laws/test_stores.py` and `test_queue.py` have the rest."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect
from structlog.testing import capture_logs

import forking
from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetterQuery, Stores, create_store
from penstock.deadletters.dead_letter_queue import JobOptions, Requester
from penstock.deadletters.postgres import migrations, writer
from penstock.deadletters.postgres.store import PostgresStore
from penstock.deadletters.sql.table import METADATA
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import FlowDefinitionError, StoreError, StoreMissing, StoreTooNew
from penstock.results import LineWriter
from servers import PostgresServer, free_port, new_name
from stores.letters import letter
from waiting import HANG_SECONDS, ending, until, until_async


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres_server.new_database()


def database_of(url: str) -> str:
    """The name of a database."""
    return url.rpartition("/")[2]


async def opened(url: str, **options: Any) -> PostgresStore:
    """A store that is open."""
    store = PostgresStore(url, **options)
    await store.open()
    return store


async def error_of(url: str, **options: Any) -> StoreError:
    """The error of opening a store."""
    with pytest.raises(StoreError) as caught:
        await opened(url, **options)
    return caught.value


async def test_processes_that_start_together_migrate_once(url: str) -> None:
    """All of them find the tables, and can store letters."""
    stores = [PostgresStore(url) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.add([letter(), letter()]) for store in stores))
    assert await stores[0].count(DeadLetterQuery()) == {(): 16}
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_the_migrations_make_the_tables_that_queries_use(url: str) -> None:
    """Columns, their types, keys and indexes."""
    store = await opened(url)

    def describe(connection: Any) -> dict[str, Any]:
        found, dialect = inspect(connection), connection.dialect
        return {
            name: (
                {each["name"]: (each["type"].compile(dialect), each["nullable"]) for each in found.get_columns(name)},
                found.get_pk_constraint(name)["constrained_columns"],
                {each["name"]: each["column_names"] for each in found.get_indexes(name)},
            )
            for name in found.get_table_names()
            if name != "letters_schema"
        }

    def expected(connection: Any) -> dict[str, Any]:
        dialect = connection.dialect
        return {
            table.name: (
                {column.name: (column.type.compile(dialect), column.nullable) for column in table.columns},
                [column.name for column in table.primary_key],
                {index.name: [column.name for column in index.columns] for index in table.indexes},
            )
            for table in METADATA.tables.values()
        }

    def without_collation(tables: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(tables).replace(' COLLATE \\"C\\"', ""))

    assert without_collation(await store._read(describe)) == without_collation(await store._read(expected))
    await store.aclose()


async def test_the_audit_is_append_only(url: str, postgres_server: PostgresServer) -> None:
    """The database rejects changes of its records."""
    store = await opened(url)
    await store.import_letters([letter()], Requester("me"))
    for statement in ("DELETE FROM penstock.audit", "UPDATE penstock.audit SET requester = 'you'"):
        with pytest.raises(AssertionError, match="append-only"):
            postgres_server.execute(statement, database_of(url))
    assert [record.action for record in await store.audit()] == ["import"]
    await store.aclose()


async def test_nul_in_texts_is_replaced(url: str) -> None:
    """PostgreSQL rejects it. Inputs are bytes, and keys are JSON: they keep it."""
    store = await opened(url)
    one = letter(message="a\0b", step="\0", cause="\0", header="\0", key="k\0", input=b"\0", flow="\0")
    await store.add([one])
    found = await store.get(one.id)
    assert found is not None
    assert (found.message, found.step, found.cause, found.header, found.flow) == ("a\\u0000b", *["\\u0000"] * 4)
    assert (found.key, found.input) == ("k\0", b"\0")
    assert await store.mark(DeadLetterQuery(), "parked", Requester("me\0", "why\0")) == 1
    assert [(record.requester, record.reason) for record in await store.audit()] == [("me\\u0000", "why\\u0000")]
    await store.aclose()


async def test_a_missing_database_is_named(url: str) -> None:
    """It is a permanent error: trying again does not create it."""
    error = await error_of(f"{url}x")
    assert str(error) == (
        f'dead-letter store {url}x: database "{database_of(url)}x" does not exist; create it with `createdb`, or name '
        "another database in the URL"
    )
    assert error.permanent


async def test_a_wrong_password_is_reported_without_it(url: str, postgres_server: PostgresServer) -> None:
    """The right one is accepted."""
    role = "DROP ROLE IF EXISTS locked; CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'right pass'"
    for statement in role.split("; "):
        postgres_server.execute(statement)
    locked = url.replace("postgres@", "locked:s3cret@")
    with pytest.raises(StoreError) as caught:
        await create_store(locked).open()
    assert 'password authentication failed for user "locked"; correct the user' in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.permanent
    store = create_store(url.replace("postgres@", "locked:right%20pass@"))
    await store.open()
    await store.aclose()


async def test_a_server_that_does_not_run_is_reported() -> None:
    """It may start later, so the error is not permanent."""
    port = free_port()
    error = await error_of(f"postgresql://127.0.0.1:{port}/letters")
    assert str(error) == (
        f"dead-letter store postgresql://127.0.0.1:{port}/letters: cannot reach the server (it refuses connections); "
        "check host and port in the URL, and that it runs"
    )
    assert not error.permanent


async def test_urls_have_the_options_of_libpq(url: str, postgres_server: PostgresServer) -> None:
    """A Unix socket, another schema, a timeout; a value that is no number is rejected."""
    socket = postgres_server.socket_url_of(database_of(url))
    store = await opened(f"{socket}&search_path=shop&connect_timeout=5&application_name=tests")
    await store.add([letter()])
    names = postgres_server.execute("SELECT DISTINCT application_name FROM pg_stat_activity", database_of(url))
    assert "tests" in names
    assert postgres_server.execute("SELECT count(*) FROM shop.letters", database_of(url)) == "1"
    await store.aclose()
    with pytest.raises(FlowDefinitionError, match="connect_timeout: expected a number of seconds"):
        PostgresStore(f"{url}?connect_timeout=soon")
    assert "sslmode" in str(await error_of(f"{url}?sslmode=sometimes"))


async def test_letters_are_durable_where_the_server_is_lax(url: str, postgres_server: PostgresServer) -> None:
    """A server with `synchronous_commit = off` confirms commits that it may lose."""
    postgres_server.execute(f"ALTER DATABASE {database_of(url)} SET synchronous_commit = off")
    store = await opened(url)
    connection = await store._writer._connect()
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await store.aclose()


async def test_only_reading_creates_nothing(url: str, postgres_server: PostgresServer) -> None:
    """And needs no right to write; a database without letters is reported."""
    assert isinstance(await error_of(url, create=False), StoreMissing)
    assert isinstance(await error_of(url, read_only=True), StoreMissing)
    assert postgres_server.execute("SELECT to_regnamespace('penstock') IS NULL", database_of(url)) == "t"

    store = await opened(url)
    await store.add([letter()])
    await store.aclose()
    reader = new_name()
    postgres_server.execute(f"CREATE ROLE {reader} LOGIN")
    for grant in ("USAGE ON SCHEMA penstock", "SELECT ON ALL TABLES IN SCHEMA penstock"):
        postgres_server.execute(f"GRANT {grant} TO {reader}", database_of(url))
    store = await opened(url.replace("postgres@", f"{reader}@"), read_only=True)
    assert await store.count(DeadLetterQuery()) == {(): 1}
    for change in (lambda: store.add([letter()]), lambda: store.delete(DeadLetterQuery())):
        with pytest.raises(StoreError, match="open for reading only"):
            await change()
    await store.aclose()


async def test_a_newer_schema_is_not_touched(url: str, postgres_server: PostgresServer) -> None:
    """The message names both versions."""
    await (await opened(url)).aclose()
    postgres_server.execute("INSERT INTO penstock.letters_schema VALUES (99, now())", database_of(url))
    error = await error_of(url)
    assert isinstance(error, StoreTooNew)
    assert (error.schema, error.supported) == (99, len(migrations.MIGRATIONS))


async def test_large_letters_are_stored_in_several_statements_and_one_transaction(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or none, with their groups."""
    monkeypatch.setattr(writer, "STATEMENT_BYTES", 1000)
    store = await opened(url)
    await store.add([letter(input=b"x" * 400) for _ in range(10)])
    with pytest.raises(StoreError, match="cannot store"):
        await store.add([*(letter(input=b"x" * 400) for _ in range(10)), letter(seq=2**70)])
    assert await store.count(DeadLetterQuery()) == {(): 10}
    assert [group.counts for group in await store.groups(DeadLetterQuery())] == [{"waiting": 10}]
    await store.aclose()


async def test_one_callers_bad_letter_does_not_fail_the_others(url: str) -> None:
    """Callers whose letters are stored together fail apart."""
    store = await opened(url)
    first = store.add([letter()])
    results = await asyncio.gather(
        first, store.add([letter()]), store.add([letter(seq=2**70)]), store.add([letter()]), return_exceptions=True
    )
    assert [result is None for result in results] == [True, True, False, True]
    assert store.problem() is None
    await store.aclose()


async def test_processes_that_share_groups_do_not_wait_in_a_circle(url: str) -> None:
    """Two stores count letters of the same groups, in different orders."""
    stores = [await opened(url) for _ in range(2)]
    messages = [f"cause {word}" for word in ("one", "two", "three", "four", "five")]

    async def add(store: PostgresStore, order: int) -> None:
        for _ in range(40):
            await store.add([letter(message=message) for message in messages[::order]])

    await asyncio.gather(*(add(store, order) for store, order in zip(stores, (1, -1), strict=True)))
    assert [group.counts for group in await stores[0].groups(DeadLetterQuery())] == [{"waiting": 80}] * 5
    assert [store.statistics().failures for store in stores] == [0, 0]
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_a_restarted_server_is_used_again(url: str, postgres_server: PostgresServer) -> None:
    """Letters and queries go on; meanwhile the problem is known and logged."""
    store = await opened(url, refresh_seconds=0.0)
    await store.add([letter()])
    await store.get("x")
    with capture_logs() as events:
        postgres_server.kill()
        with pytest.raises(StoreError):
            await store.add([letter()])
        with pytest.raises(StoreError, match="cannot reach the server"):
            await store.get("x")
        assert store.problem() is not None
        postgres_server.start()
        await until_async(lambda: store.problem() is None)
    await store.add([letter()])
    assert await store.count(DeadLetterQuery()) == {(): 2}
    assert [event["event"] for event in events] == ["store.failing", "store.recovered"]
    await store.aclose()


async def test_a_killed_server_loses_no_letter_that_was_reported(url: str, postgres_server: PostgresServer) -> None:
    """A flow goes on when the server is back; each failed element has one letter."""

    def refuse(value: int) -> int:
        raise ValueError(f"refused {value}")

    told: list[str] = []

    async def write(data: bytes) -> None:
        told.extend(json.loads(line)["deadLetter"] for line in data.splitlines())

    store = await opened(url)
    flow = Flow[Any]("f").map(refuse).window(64).dead_letters(store)
    run = flow.start(from_iterable(range(5000)), LineWriter(write))
    for count in (500, 2500):
        await until_async(lambda: len(told) >= count)  # noqa: B023 - called at once
        await asyncio.to_thread(postgres_server.kill)
        reported = set(told)
        await asyncio.to_thread(postgres_server.start)
        assert reported <= set(postgres_server.execute("SELECT id FROM penstock.letters", database_of(url)).split())
    summary = await run.finished
    assert (summary.failed, len(told), len(set(told))) == (5000, 5000, 5000)
    assert await store.count(DeadLetterQuery()) == {(): 5000}
    assert [group.counts for group in await store.groups(DeadLetterQuery())] == [{"waiting": 5000}]
    await store.aclose()


RUNNER = """
import asyncio, sys
from penstock.deadletters.postgres.store import PostgresStore
from penstock.deadletters.dead_letter_queue import Settlement

async def main():
    url, job, runner = sys.argv[1:]
    store = PostgresStore(url)
    await store.open()
    while True:
        letters = await store.claim(job, runner, 0, 20, lease=LEASE)
        for letter in letters:
            print(letter.id, flush=True)
        if letters:
            await store.settle(job, runner, [Settlement(letter.id, "resolved") for letter in letters])
        else:
            current = await store.job(job)
            if not current.counts.open:
                break
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


async def test_two_processes_share_a_queue_and_one_is_killed(url: str, tmp_path: Path) -> None:
    """Each letter is resolved; only letters that the killed process had claimed are processed twice."""
    store = await opened(url)
    await store.add([letter(seq=seq) for seq in range(600)])
    job = await store.create_job(DeadLetterQuery(), JobOptions(), Requester("me"))
    command = ["-c", RUNNER.replace("LEASE", "2"), url, job.id]
    outputs = [tmp_path / name for name in ("first", "second")]

    def start(output: Path) -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            return forking.start_python(*command, output.name, stdout=file)

    def lines(output: Path) -> list[str]:
        return output.read_text().split()

    with ending(start(outputs[0])) as first, ending(start(outputs[1])) as second:
        until(lambda: len(lines(outputs[0])) > 60)
        os.kill(first.pid, signal.SIGKILL)
        assert second.wait(60) == 0
    processed = Counter(lines(outputs[0]) + lines(outputs[1]))
    assert len(processed) == 600
    repeated = [id for id, count in processed.items() if count > 1]
    assert set(repeated) <= set(lines(outputs[0])[-20:])
    found = await store.job(job.id)
    assert found is not None
    assert (found.counts.resolved, found.counts.open) == (600, 0)
    assert [group.counts for group in await store.groups(DeadLetterQuery())] == [{"resolved": 600}]
    for id in repeated:
        assert [attempt.outcome for attempt in (await store.history(id)).attempts] == ["unknown", "resolved"]
    await store.aclose()


async def test_letters_are_copied_although_server_and_process_are_killed(
    url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """The outbox is durable with the letters: another process delivers what a killed one has not."""
    copy = f"sqlite:///{tmp_path}/copy.db"
    target = DeadLetterTarget(url, (f"sqlite:///{tmp_path}/missing/copy.db", copy))
    code = """
import asyncio, sys
sys.path.insert(0, "tests")
from penstock.deadletters import Stores
from penstock.deadletters.target import DeadLetterTarget
from stores.letters import letter

async def main():
    stores = Stores()
    store = await stores.get(DeadLetterTarget(sys.argv[1], tuple(sys.argv[2:])))
    for _ in range(100):
        await store.add([letter() for _ in range(20)])
    print("stored", flush=True)
    await asyncio.sleep(99)

asyncio.run(main())
"""
    command = ["-c", code, url, *target.copies]
    root = Path(__file__).parents[2]
    with ending(forking.start_python(*command, stdout=subprocess.PIPE, cwd=root)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stored\n"
        process.kill()
    postgres_server.restart()
    (tmp_path / "missing").mkdir()
    postgres_server.execute("UPDATE penstock.copies SET leased_until = 0", database_of(url))
    stores = Stores()
    store = await stores.get(target)
    assert isinstance(store, PostgresStore)
    async with asyncio.timeout(HANG_SECONDS):
        while await store.count_uncopied():
            await asyncio.sleep(0.1)
    assert await store.count(DeadLetterQuery()) == {(): 2000}
    assert [await read_counts(each) for each in target.copies] == [{"waiting": 2000}] * 2
    await stores.aclose()


async def read_counts(url: str) -> Any:
    """Return the letters of a store by state."""
    store = create_store(url)
    await store.open()
    try:
        return store.statistics().counts
    finally:
        await store.aclose()


async def test_processes_that_delete_the_surplus_together_delete_it_once(url: str) -> None:
    """Each has its own connection. They leave as many letters as `max` says."""
    stores = [await opened(url) for _ in range(3)]
    await stores[0].add([letter(seq=seq) for seq in range(9000)])
    await asyncio.gather(*(store.count(DeadLetterQuery()) for store in stores))

    deleted = await asyncio.gather(*(store.expire({}, max=5000) for store in stores))

    assert sum(deleted) == 4000
    assert await stores[0].count(DeadLetterQuery()) == {(): 5000}
    for store in stores:
        await store.aclose()
