"""The dead-letter stores of a process: one open store per URL, and several stores read as one."""

from __future__ import annotations

import asyncio
import heapq
import re
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from msgspec.structs import replace

from penstock.backends.extras import require_extra
from penstock.backends.server_url import SCHEMES, check_credentials, hide_password, invalid_url, parse_server_url
from penstock.deadletters.copies import Copies, CopyStatistics, is_outbox
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.memory import MemoryStore
from penstock.deadletters.memory_outbox import MemoryOutboxStore
from penstock.deadletters.store import (
    PAGE,
    SQLITE,
    DeadLetterQuery,
    DeadLetterStore,
    Page,
    PageBuilder,
    StoreStatistics,
)
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import FlowDefinitionError
from penstock.support.environment import substitute
from penstock.support.text import sanitize

if TYPE_CHECKING:
    from penstock.deadletters.sqlite.store import MakeWriter

MEMORY = "memory:"
"""The URL of a store in memory."""

POSTGRES = "postgresql://"
"""The beginning of the URL of a PostgreSQL database."""

LOGS = ("s3", "kafka", "nats")
"""The schemes of URLs of logs."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

USAGE = (
    "sqlite:///FILE, postgresql://HOST/DATABASE, s3://BUCKET/PREFIX, kafka://HOST/TOPIC, nats://HOST/STREAM or memory:"
)
"""The URLs of all kinds of stores."""


def normalize_url(url: str) -> str:
    """Substitute variables in a store URL. `memory` needs no colon, because YAML would need quotes for it."""
    resolved = substitute(url)
    return MEMORY if resolved == "memory" else resolved


def is_in_memory(store: str | DeadLetterStore | None) -> bool:
    """Return whether a store, or the one with a URL, is in memory. Raises `MissingVariable`."""
    return normalize_url(store) == MEMORY if isinstance(store, str) else isinstance(store, MemoryStore)


def validate_store_url(url: str) -> None:
    """Raise `FlowDefinitionError` for an invalid store URL, and one of its subclasses if something is not there.

    These are `MissingVariable`: a variable is not set, and `ExtraMissing`: the packages are not installed.
    """
    resolved = normalize_url(url)
    if _CONTROL.search(resolved):
        raise invalid_url(url, "the URL contains a line break or another control character")
    if resolved == MEMORY:
        return
    if resolved.startswith("sqlite:"):
        validate_file_url(resolved, url)
        return
    scheme = SCHEMES.get(resolved.partition("://")[0])
    if scheme is None:
        raise FlowDefinitionError(f"unknown dead-letter store {hide_password(url)!r}: use {USAGE}")
    if resolved.startswith(POSTGRES):
        _validate_database_url(resolved, url)
    else:
        parse_server_url(resolved, url)
    require_extra(scheme.extra, f"dead-letter store {display_of(url)}")


def display_of(url: str) -> str:
    """Return the URL of a store on a server for messages, without its password and the values of variables.

    If a variable has the kind of the store, the URL that it stands for comes first: `s3://bucket/letters (${STORE})`.
    """
    display = hide_password(url)
    return f"{hide_password(normalize_url(url))} ({display})" if url.startswith("${") else display


def identity_of(url: str) -> str:
    """Return what is equal for the URLs and displays of one store: its URL with variables, without its password."""
    return hide_password(normalize_url(url.partition(" (${")[0]))


def is_log_url(url: str) -> bool:
    """Return whether a URL is that of a log, whose letters cannot be changed."""
    return normalize_url(url).partition("://")[0] in LOGS


def _validate_database_url(resolved: str, url: str) -> None:
    check_credentials(resolved, url)
    try:
        parts = urlsplit(resolved)
    except ValueError:
        raise invalid_url(url, f"invalid host; use {SCHEMES['postgresql'].usage}") from None
    if not parts.path.strip("/"):
        raise invalid_url(url, f"the database is missing; use {SCHEMES['postgresql'].usage}")
    try:
        parts.port  # noqa: B018 - raises
    except ValueError:
        raise invalid_url(url, f"invalid port; use {SCHEMES['postgresql'].usage}") from None


def validate_file_url(resolved: str, url: str) -> None:
    """Raise `FlowDefinitionError` unless a URL names a SQLite file.

    `url` is the URL before its variables were substituted.
    """
    if not resolved.startswith(SQLITE) or resolved in (SQLITE, f"{SQLITE}:memory:"):
        raise invalid_url(url, "the file name is missing; use sqlite:///FILE or memory")


def create_store(
    url: str,
    *,
    create: bool = True,
    separate_writer: bool = False,
    read_only: bool = False,
    make_writer: MakeWriter | None = None,
) -> DeadLetterStore:
    """Create the store for a URL, not yet open. Raises `FlowDefinitionError` for an invalid URL.

    With `create=False`, opening a database that does not exist raises `StoreMissing` instead of creating it.
    With `read_only=True`, letters can only be read, and no write permission is needed.
    With `separate_writer=True`, a subprocess writes to the file; it is started for the first letter. `make_writer`
    creates another writer of a SQLite file.
    """
    validate_store_url(url)
    resolved = normalize_url(url)
    if resolved == MEMORY:
        return MemoryOutboxStore()
    kind, display_url = resolved.partition(":")[0], display_of(url)
    if kind == "postgresql":
        from penstock.deadletters.postgres.store import PostgresStore

        return PostgresStore(resolved, create=create, display_url=display_url, read_only=read_only)
    if kind == "s3":
        from penstock.deadletters.s3 import S3Store

        return S3Store(resolved, create=create, display_url=display_url, read_only=read_only)
    if kind == "kafka":
        from penstock.deadletters.kafka import KafkaStore

        return KafkaStore(resolved, create=create, display_url=display_url, read_only=read_only)
    if kind == "nats":
        from penstock.deadletters.jetstream import JetStreamStore

        return JetStreamStore(resolved, create=create, display_url=display_url, read_only=read_only)
    from penstock.deadletters.sqlite.store import SqliteStore

    return SqliteStore(
        resolved,
        create=create,
        display_url=url,
        separate_writer=separate_writer,
        read_only=read_only,
        make_writer=make_writer,
    )


class Stores:
    """The open stores of a process, by URL.

    With `separate_writer=True`, each file is written by a separate subprocess. `make_writer` creates other writers of
    files: those of a process that shares them with its siblings (`SharedWriters`).
    """

    def __init__(self, *, separate_writer: bool = False, make_writer: MakeWriter | None = None) -> None:
        self._separate_writer = separate_writer
        self._make_writer = make_writer
        self._stores: dict[str, DeadLetterStore] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while a store is opened."""
        self._closing: set[DeadLetterStore] = set()
        self._closed = StoreStatistics()
        """The counters of closed stores."""
        self._copies: dict[str, Copies] = {}
        """The copies of stores that have some, by the same keys."""

    async def get(self, store: str | DeadLetterStore | DeadLetterTarget) -> DeadLetterStore:
        """Return the store with a URL, or the given one. Opens it if it is not open, and starts its copies.

        A store has one set of copies: those of all targets that name it. Raises `FlowDefinitionError` if it cannot have
        copies.
        """
        name = _key(store)
        async with self._locks.setdefault(name, asyncio.Lock()):  # concurrent callers open a store once
            if name not in self._stores:
                primary = store.store if isinstance(store, DeadLetterTarget) else store
                opened = self._create(primary) if isinstance(primary, str) else self._adopt(primary)
                await opened.open()
                self._stores[name] = opened
            if isinstance(store, DeadLetterTarget) and store.copies:
                self._start_copies(name, store)
            return self._stores[name]

    def opened(self, store: str | DeadLetterStore | DeadLetterTarget) -> DeadLetterStore | None:
        """Return the store with a URL, or the given one, if it is open and has the copies of a target."""
        name = _key(store)
        if isinstance(store, DeadLetterTarget) and store.copies:
            copies = self._copies.get(name)
            if copies is None or not copies.include(store.copies):
                return None
        return self._stores.get(name)

    def copies(self) -> dict[tuple[str, str], CopyStatistics]:
        """Return the counters of all copies, by the display names of the store and of the copy."""
        return {
            (hide_password(sanitize(self._stores[name].url)), copy): statistics
            for name, copies in self._copies.items()
            for copy, statistics in copies.statistics().items()
        }

    def all(self) -> list[DeadLetterStore]:
        """Return the open stores."""
        return list(self._stores.values())

    def usable(self) -> dict[str, bool]:
        """Return for each display name whether all open stores of that name can store letters."""
        usable: dict[str, bool] = {}
        for store in self.all():
            problem = store.problem()
            name = hide_password(sanitize(store.url))
            usable[name] = usable.get(name, True) and (problem is None or not problem.lasting)
        return usable

    def statistics(self) -> StoreStatistics:
        """Return the counters of all stores, including stores closed earlier; letters are counted in open stores."""
        closing = (replace(store.statistics(), counts={}) for store in self._closing)
        return sum((*(store.statistics() for store in self.all()), *closing), self._closed)

    async def close(
        self, store: str | DeadLetterTarget, *, others: Iterable[str | DeadLetterStore | DeadLetterTarget | None] = ()
    ) -> None:
        """Close the store with a URL, unless one of `others` is the same store, however its URL is written.

        A store in memory stays open, because closing it would lose its letters. Copies that none of `others` names are
        closed in any case.
        """
        name = _key(store)
        same = [other for other in others if other is not None and _key(other) == name]
        copies = self._copies.get(name)
        if copies is not None:
            await copies.retain(url for other in same if isinstance(other, DeadLetterTarget) for url in other.copies)
        if name == MEMORY or same:
            return
        self._copies.pop(name, None)
        if (closing := self._stores.pop(name, None)) is not None:
            self._closing.add(closing)
            try:
                await closing.aclose()
            finally:
                self._closing.discard(closing)
                self._closed += replace(closing.statistics(), counts={})

    async def aclose(self) -> None:
        """Close all copies and all stores, then raise the first error."""
        copies, stores = list(self._copies.values()), self.all()
        self._copies.clear()
        self._stores.clear()
        try:
            await asyncio.gather(*(each.aclose() for each in copies))
        finally:
            errors = await asyncio.gather(*(store.aclose() for store in stores), return_exceptions=True)
        for error in errors:
            if error is not None:
                raise error

    def _create(self, url: str) -> DeadLetterStore:
        return create_store(url, separate_writer=self._separate_writer, make_writer=self._make_writer)

    def _adopt(self, store: DeadLetterStore) -> DeadLetterStore:
        if self._make_writer is not None and (write_with := getattr(store, "write_with", None)) is not None:
            write_with(self._make_writer)
        return store

    def _create_copy(self, url: str) -> DeadLetterStore:
        return create_store(url, make_writer=self._make_writer)

    def _start_copies(self, name: str, target: DeadLetterTarget) -> None:
        store = self._stores[name]
        if not is_outbox(store):
            raise FlowDefinitionError(
                f"dead-letter store {hide_password(target.store)!r}: a log does not record which letters were copied; "
                "name a database as the store, and the log as a copy"
            )
        if name not in self._copies:
            self._copies[name] = Copies(store, self._create_copy)
        self._copies[name].add(target.copies)


async def merge_pages(
    stores: Sequence[DeadLetterStore], query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE
) -> Page:
    """Read a page of several stores as if they were one. Raises `StoreError` if one of them does.

    A letter that two stores return, because they are one file under two names, appears once.
    """
    pages = await asyncio.gather(*(store.page(query, after=after, limit=limit) for store in stores))
    merged, last = PageBuilder(limit), ""
    for letter in heapq.merge(*(page.letters for page in pages), key=attrgetter("id")):
        if letter.id == last:
            continue
        if not merged.add(letter):  # the page of one store fills by the same rule, so it does not end before this one
            return merged.page(more=True)
        last = letter.id
    return merged.page(more=any(page.next is not None for page in pages))


async def find_letter(stores: Sequence[DeadLetterStore], id: str) -> DeadLetter | None:
    """Find a letter by id in several stores. Raises `StoreError` if one of them does and no other has the letter."""
    results = await asyncio.gather(*(store.get(id) for store in stores), return_exceptions=True)
    letter = next((each for each in results if isinstance(each, DeadLetter)), None)
    if letter is None and (error := next((each for each in results if isinstance(each, BaseException)), None)):
        raise error
    return letter


def _key(store: str | DeadLetterStore | DeadLetterTarget) -> str:
    """Return the key of a store in a dictionary: its URL, or its identity."""
    if isinstance(store, DeadLetterTarget):
        store = store.store
    return normalize_url(store) if isinstance(store, str) else f"{store.url}#{id(store)}"
