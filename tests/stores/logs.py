"""Logs on real servers, for the tests of their stores."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.log import LogStore, is_log
from servers import KafkaServer, NatsServer, S3Server, Server, new_name

BUCKETS: dict[str, str] = {}
"""The bucket of each S3 server, by its endpoint: one for all tests, because each takes a volume of the server."""

KEYS = "access_key_id=test&secret_access_key=test"


def new_log(server: Server) -> str:
    """Return the URL of a log that is empty."""
    if isinstance(server, S3Server):
        if server.endpoint not in BUCKETS:
            BUCKETS[server.endpoint] = server.new_bucket()
        return f"s3://{BUCKETS[server.endpoint]}/{new_name()}/letters?endpoint={server.endpoint}&{KEYS}"
    if isinstance(server, KafkaServer):
        return f"kafka://{server.address}/{new_name()}"
    assert isinstance(server, NatsServer)
    return f"nats://127.0.0.1:{server.port}/{new_name()}"


async def open_log(url: str) -> LogStore:
    """Connect to a log."""
    opened = create_store(url)
    assert is_log(opened)
    await opened.open()
    return opened


async def read(store: LogStore, query: DeadLetterQuery | None = None, limit: int = 7) -> list[Any]:
    """Follow the pages to the end."""
    found: list[Any] = []
    after = None
    while True:
        page = await store.page(query or DeadLetterQuery(), after=after, limit=limit)
        found += page.letters
        if page.next is None:
            return found
        assert page.letters
        after = page.next


async def consume(store: LogStore, *, ack: bool = True) -> list[Any]:
    """Receive all letters of the group, one batch after the other; without `ack`, the first batch."""
    found: list[Any] = []
    async with aclosing(store.consume()) as batches:
        async for batch in batches:
            found += batch.letters
            if not ack:
                return found
            await batch.ack()
    return found


def ids(letters: list[Any]) -> list[str]:
    """Return the ids of letters, sorted."""
    return sorted(each.id for each in letters)
