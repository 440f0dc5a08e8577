"""Letters and the stores that they are put into, for the tests."""

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
