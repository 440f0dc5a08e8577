"""The yardstick of the dead-letter stores: the same letters, stored by hand with the client of each server."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec.structs import astuple

from penstock.deadletters import DeadLetter
from penstock.deadletters.sql.rows import COLUMNS
from penstock.support.ids import new_ids, now

CAUSES = ("the service is down", "connection refused", "no stock for 17", "unknown product 'lamp'")


def letters_of(count: int, start: int = 0, *, causes: int = 4) -> list[DeadLetter]:
    """New letters of the flow `orders`, of some causes, with an order of about 180 bytes and a price that was found."""
    at = now()
    run = new_ids(1, at)[0]
    return [
        DeadLetter(
            id=id,
            flow="orders",
            run=run,
            seq=start + number,
            key=start + number,
            step=f"service{number % causes // 4}",
            type="Down",
            message=CAUSES[number % 4],
            attempts=2,
            input=(raw := b'{"id":%d,"customer":"c-%07d","note":"%s"}' % (number, number, b"x" * 130)),
            input_size=len(raw),
            partial_results={"pricing": {"price": 1000 + number}},
            started_at=at,
            failed_at=at,
            revision=3,
        )
        for number, id in enumerate(new_ids(count, at))
    ]


def rows_of(letters: list[DeadLetter]) -> list[tuple[Any, ...]]:
    """The rows of letters, as one writes them by hand."""
    rows = []
    for letter in letters:
        row = dict(zip(COLUMNS, astuple(letter), strict=True))
        row["key"], row["found"] = json.dumps(letter.key), json.dumps(letter.partial_results)
        row["started_at"] = int(letter.started_at.timestamp() * 1_000_000)
        row["failed_at"] = int(letter.failed_at.timestamp() * 1_000_000)
        rows.append(tuple(row.values()))
    return rows


def document_of(letter: DeadLetter) -> bytes:
    """The JSON document of a letter, as one writes it by hand."""
    fields = msgspec.structs.asdict(letter)
    fields["input"] = letter.input.decode()
    return msgspec.json.encode(fields)


class RawStore:
    """Stores letters durably, without groups, problems, retries and copies."""

    async def add(self, letters: list[DeadLetter]) -> None:
        """Store letters in one group."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""


NUMBERS = ("seq", "part", "attempts", "input_size", "started_at", "failed_at", "revision", "redrives")
INDEXES = ("(run, id)", "(state, id)", "(group_id, state, id)")


def table(binary: str, number: str) -> list[str]:
    """Statements for a table of letters with the columns and indexes of Penstock's."""
    kinds = {"input": binary} | dict.fromkeys(NUMBERS, number)
    columns = ", ".join(f"{name} {kinds.get(name, 'text')}{' primary key' * (name == 'id')}" for name in COLUMNS)
    return [f"CREATE TABLE letters ({columns})", *(f"CREATE INDEX ON letters {columns}" for columns in INDEXES)]


class RawSqlite(RawStore):
    """The `sqlite3` module: `executemany` in a thread, WAL, `synchronous=FULL`, one commit for each group."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(self._path, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            for number, statement in enumerate(table("blob", "integer")):
                connection.execute(statement.replace("INDEX ON", f"INDEX i{number} ON"))
            return connection

        self._connection = await asyncio.get_running_loop().run_in_executor(self._thread, connect)
        return self

    async def add(self, letters: list[DeadLetter]) -> None:
        def write() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            marks = ", ".join("?" * len(COLUMNS))
            self._connection.executemany(f"INSERT OR IGNORE INTO letters VALUES ({marks})", rows_of(letters))
            self._connection.execute("COMMIT")

        await asyncio.get_running_loop().run_in_executor(self._thread, write)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


class RawPostgres(RawStore):
    """asyncpg: `executemany`, one transaction for each group."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        import asyncpg

        self._connection = await asyncpg.connect(self._url)
        for statement in table("bytea", "bigint"):
            await self._connection.execute(statement)
        marks = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
        self._insert = f"INSERT INTO letters VALUES ({marks}) ON CONFLICT DO NOTHING"
        return self

    async def add(self, letters: list[DeadLetter]) -> None:
        async with self._connection.transaction():
            await self._connection.executemany(self._insert, rows_of(letters))

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


class RawS3(RawStore):
    """obstore: one compressed NDJSON object for each group."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        import obstore.store

        keys = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
        options: Any = {"allow_http": True}
        self._bucket = obstore.store.S3Store(bucket, endpoint=endpoint, client_options=options, **keys)

    async def add(self, letters: list[DeadLetter]) -> None:
        data = gzip.compress(b"\n".join(map(document_of, letters)), 1)
        await self._bucket.put_async(f"raw/{letters[0].id}.ndjson.gz", data, mode="create")


class RawKafka(RawStore):
    """aiokafka: a record for each letter, acknowledged by all replicas."""

    def __init__(self, address: str, topic: str) -> None:
        self._address = address
        self._topic = topic

    async def __aenter__(self) -> Self:
        from aiokafka import AIOKafkaProducer
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        admin = AIOKafkaAdminClient(bootstrap_servers=self._address)
        await admin.start()
        await admin.create_topics([NewTopic(self._topic, 1, 1)])
        await admin.close()
        self._producer = AIOKafkaProducer(bootstrap_servers=self._address, acks="all")
        await self._producer.start()
        return self

    async def add(self, letters: list[DeadLetter]) -> None:
        sent = []
        for letter in letters:
            headers = [("id", letter.id.encode()), ("flow", letter.flow.encode())]
            key = str(letter.key).encode()
            sent.append(await self._producer.send(self._topic, document_of(letter), key=key, headers=headers))
        await asyncio.gather(*sent)

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()


class RawJetStream(RawStore):
    """nats-py: a message for each letter, all acknowledged."""

    def __init__(self, url: str, stream: str) -> None:
        self._url = url
        self._stream = stream

    async def __aenter__(self) -> Self:
        import nats

        self._client = await nats.connect(self._url)
        self._jetstream = self._client.jetstream()
        await self._jetstream.add_stream(name=self._stream, subjects=[f"{self._stream}.>"])
        return self

    async def add(self, letters: list[DeadLetter]) -> None:
        acknowledged = [
            await self._jetstream.publish_async(
                f"{self._stream}.orders", document_of(letter), headers={"Nats-Msg-Id": letter.id}
            )
            for letter in letters
        ]
        await asyncio.gather(*acknowledged)

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
