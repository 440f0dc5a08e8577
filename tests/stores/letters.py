"""Letters and the stores that they are put into, for the tests."""

import sqlite3
from contextlib import closing

from msgspec.structs import replace

from penstock.deadletters import DeadLetter
from penstock.deadletters.groups import fingerprint
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.support.ids import new_id, now
from penstock.support.text import sanitize


def letter(**facts):
    """A letter of which only some facts matter. Its group is the one that a store sets."""
    plain = {"flow": "f", "run": "r", "seq": 0, "step": "s", "type": "T", "message": "m", "input": b"", "input_size": 0}
    return grouped(DeadLetter(**({"id": new_id(), "started_at": now(), "failed_at": now()} | plain | facts)))


def grouped(one):
    """The letter as a store returns it: with its group. Texts that are no Unicode are stored with escapes."""
    return replace(one, group=fingerprint(one.flow, sanitize(one.step), one.type, sanitize(one.message)))


async def opened(url, **settings):
    """A store that is open."""
    store = SqliteStore(url, **settings)
    await store.open()
    return store


def expire_leases(database):
    """Set the end of all claims in a SQLite file to the past, as if their time had gone by."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE jobs SET leased_until = 1 WHERE leased_until IS NOT NULL")
        connection.execute("UPDATE job_letters SET leased_until = 1 WHERE leased_until IS NOT NULL")
