"""Letters and the stores that they are put into, for the tests."""

from penstock.deadletters import DeadLetter
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.support.ids import new_id, now


def letter(**facts):
    """A letter of which only some facts matter."""
    plain = {"flow": "f", "run": "r", "seq": 0, "step": "s", "type": "T", "message": "m", "input": b"", "input_size": 0}
    return DeadLetter(**({"id": new_id(), "started_at": now(), "failed_at": now()} | plain | facts))


async def opened(url, **settings):
    """A store that is open."""
    store = SqliteStore(url, **settings)
    await store.open()
    return store
