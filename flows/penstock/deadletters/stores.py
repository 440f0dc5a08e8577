"""From a URL to a store, one for each URL in a process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from weakref import WeakValueDictionary

from msgspec import Struct

from penstock.deadletters.memory import MemoryStore
from penstock.deadletters.store import SQLITE, Store, check_file
from penstock.environment import filled
from penstock.errors import FlowError
from penstock.support.text import sanitize

MEMORY = "memory:"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_CREDENTIALS = re.compile(r"//[^/@]*@")
"""User and password in a URL."""


def place_of(url: str) -> str:
    """The URL with its variables filled in; `memory` needs no colon, which YAML would have in quotes."""
    where = filled(url)
    return MEMORY if where == "memory" else where


def check_store(url: str) -> None:
    """Raise `FlowError` for a URL that names no store, `VariableMissing` for one whose variables are not set."""
    where = place_of(url)
    if _CONTROL.search(where):
        raise FlowError(f"the URL of a dead-letter store contains a line break or another control character: {url!r}")
    if where != MEMORY and not where.startswith(SQLITE):
        raise FlowError(f"no dead-letter store is known for {url!r}; use sqlite:///FILE or memory")
    if where != MEMORY:
        check_file(where, url)


def make_store(url: str, *, create: bool = True, apart: bool = False, read_only: bool = False) -> Store:
    """The store that a URL names, not yet open; raises `FlowError` for a URL that names none.

    With `create=False`, opening a database that is not there raises `StoreMissing` instead of creating it.
    With `read_only=True`, it can only be read, and needs no write permission.
    With `apart=True`, one that writes to a file does it in a process of its own.
    """
    check_store(url)
    if (where := place_of(url)) == MEMORY:
        return MemoryStore()
    from penstock.deadletters.sqlite import SqliteStore  # imported late: who keeps letters elsewhere needs no SQLite

    return SqliteStore(where, create=create, said=url, apart=apart, read_only=read_only)


class Stores:
    """The open stores of a process, by URL. With `apart=True`, each that writes to a file has a process for that."""

    def __init__(self, *, apart: bool = False) -> None:
        self._apart = apart
        self._stores: dict[str, Store] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while a store is opened."""
        self._closing: set[Store] = set()
        self._closed = Work()
        """What stores did that are closed."""

    async def get(self, where: str | Store) -> Store:
        """The store at a URL, or the given one; opened if it was not."""
        name = _name(where)
        async with self._locks.setdefault(name, asyncio.Lock()):  # two that ask for a store are not to open it twice
            if name not in self._stores:
                store = make_store(where, apart=self._apart) if isinstance(where, str) else where
                await store.open()
                self._stores[name] = store
            return self._stores[name]

    def opened(self, where: str | Store) -> Store | None:
        """The store at a URL, or the given one, if it is open."""
        return self._stores.get(_name(where))

    def all(self) -> list[Store]:
        """The stores that are open."""
        return list(self._stores.values())

    def usable(self) -> dict[str, bool]:
        """The open stores by the names to show, and whether letters can be stored in all stores of that name."""
        found: dict[str, bool] = {}
        for store in self.all():
            problem = store.problem()
            name = _CREDENTIALS.sub("//", sanitize(store.url))
            found[name] = found.get(name, True) and (problem is None or not problem.lasting)
        return found

    @property
    def work(self) -> Work:
        """What all of them did, those too that were closed meanwhile."""
        return sum((Work.of(store) for store in [*self.all(), *self._closing]), self._closed)

    async def close(self, url: str, *, rest: Iterable[str | Store | None] = ()) -> None:
        """Close the store at a URL, unless one of `rest` is the same, however its URL is written.

        One in memory stays: it would lose its letters.
        """
        place = place_of(url)
        if place == MEMORY or place in {_name(other) for other in rest if other is not None}:
            return
        if (store := self._stores.pop(place, None)) is not None:
            self._closing.add(store)
            try:
                await store.aclose()
            finally:
                self._closing.discard(store)
                self._closed += Work.of(store)

    async def aclose(self) -> None:
        """Close all stores. Raises the first error when all are closed."""
        stores = self.all()
        self._stores.clear()
        for error in await asyncio.gather(*(store.aclose() for store in stores), return_exceptions=True):
            if error is not None:
                raise error


class Work(Struct, frozen=True):
    """What stores did: their commits, the seconds that those took, and how often a process that writes was replaced."""

    commits: int = 0
    seconds: float = 0.0
    restarts: int = 0

    @classmethod
    def of(cls, store: Store) -> Work:
        """What one store did."""
        return cls(store.commits, store.commit_seconds, store.restarts)

    def __add__(self, other: Work) -> Work:
        return Work(self.commits + other.commits, self.seconds + other.seconds, self.restarts + other.restarts)


def _name(where: str | Store) -> str:
    """What a store is known by: its URL, or itself."""
    return place_of(where) if isinstance(where, str) else f"{where.url}#{id(where)}"
