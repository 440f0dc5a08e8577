"""What all stores that are logs have in common: users, appending, pages, and what they do not support."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.letter_documents import decode_letter, encode_letter
from penstock.deadletters.log_appender import LogAppender
from penstock.deadletters.log_consumer import Batches, BatchIterator
from penstock.deadletters.matching import matches
from penstock.deadletters.not_editable import NotEditable
from penstock.deadletters.recent import Recent
from penstock.deadletters.store import (
    PAGE,
    DeadLetterQuery,
    Page,
    PageBuilder,
    Problem,
    StoreStatistics,
)
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger
from penstock.support.text import sanitize

log = get_logger()

CHECK_SECONDS = 5.0
"""Seconds between two checks of a log whose last append failed."""

Record = tuple[str, DeadLetter | None]
"""A record of a log: the cursor behind it, and its letter; None if the record is not a letter."""


class BaseLog(NotEditable, ABC):
    """The common part of stores that are logs. Their records cannot be changed.

    Several users share the open store; it is closed when all of them have closed it. It can be used in one event loop
    at a time.
    """

    timeout = 30.0
    concurrency = 4
    """How many appends may be in flight."""

    def __init__(self, display_url: str, *, create: bool, read_only: bool) -> None:
        self.url = display_url
        self._create = create and not read_only
        self._read_only = read_only
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop that opened the store last."""
        self._statistics = StoreStatistics()
        """The counters of earlier event loops."""
        self._appender = self._make_appender()
        self._lock = asyncio.Lock()
        self._users = 0
        """How often it was opened and not yet closed."""
        self._checked_at = 0.0
        self._check: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and create the log if it does not exist. Raises `StoreMissing`, or `StoreError` with advice."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed() and self._users:
                raise self._wrong_loop()
            self._reset()
            self._loop = loop
        async with self._lock:
            if not self._users:
                try:
                    async with asyncio.timeout(self.timeout):
                        await self._connect()
                except BaseException as error:
                    await self._disconnect()
                    if isinstance(error, Exception):
                        raise self._to_store_error(error) from error
                    raise
            self._users += 1

    def add(self, letters: Sequence[DeadLetter]) -> asyncio.Future[None]:
        """Append letters. When this returns, all are durable; after an error, some may be, and repeating it is safe."""
        self._check_open()
        if self._read_only:
            raise StoreError(f"dead-letter store {self.url}: it is open for reading only")
        return self._appender.add(letters)

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters in the order of the log, starting after the `next` of the page before.

        Reads all records until the page is full. Raises `NotSupportedByStore` for a query by group, and `StoreError`
        for an `after` that is not of this log.
        """
        self._check_open()
        if query.group is not None:
            self._unsupported("select letters by group")
        page = PageBuilder(limit)
        seen = Recent()
        cursor = after
        try:
            async with aclosing(self._read(query, after)) as records:
                async for behind, letter in records:
                    if letter is not None and matches(letter, query) and not seen.has(letter):
                        if not page.add(letter):
                            return replace(page.page(more=True), next=cursor)
                        seen.add(letter)
                    cursor = behind
        except Exception as error:
            raise self._to_store_error(error) from error
        return page.page(more=False)

    def consume(self) -> BatchIterator:
        """Receive the letters that the group has not acknowledged, up to the current end of the log."""
        self._check_open()
        return BatchIterator(self._consume(), self._to_store_error)

    def statistics(self) -> StoreStatistics:
        """Return the counters. Letters of a log are not counted. Never waits."""
        return self._statistics + self._appender.statistics

    def problem(self) -> Problem | None:
        """Return why letters could not be appended at the last attempt. Never waits; a check follows soon."""
        problem, loop = self._appender.problem, self._loop
        due = problem is not None and time.monotonic() - self._checked_at >= CHECK_SECONDS
        if due and self._users and loop is not None and not loop.is_closed():
            self._checked_at = time.monotonic()
            loop.call_soon_threadsafe(self._start_check)  # metrics may be read in another thread
        return problem

    async def aclose(self) -> None:
        """Close the store for one of its users. The last one waits for pending calls and disconnects."""
        if self._loop is not asyncio.get_running_loop():
            if self._users and self._loop is not None and not self._loop.is_closed():
                raise self._wrong_loop()
            return
        async with self._lock:
            if self._users == 1:
                self._users = 0
                if self._check is not None:
                    self._check.cancel()
                try:
                    await self._appender.aclose()
                finally:
                    await self._disconnect()
            elif self._users:
                self._users -= 1

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, and create the log if that is allowed and it does not exist."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Disconnect, also after `_connect` failed."""

    @abstractmethod
    async def _append(self, letters: list[DeadLetter]) -> None:
        """Append letters durably. Repeated after an error."""

    @abstractmethod
    async def _ping(self) -> None:
        """Raise an error if letters can probably not be appended."""

    @abstractmethod
    def _read(self, query: DeadLetterQuery, after: str | None, /) -> AsyncGenerator[Record, None]:
        """Read records from a cursor to the current end. Records that cannot match the query may be left out."""

    @abstractmethod
    def _consume(self) -> Batches:
        """Receive batches for the consumer group, then yield None."""

    @abstractmethod
    def _advice(self, error: Exception) -> tuple[str, bool]:
        """Describe an error with advice, and whether it is permanent."""

    def _encode(self, letter: DeadLetter, limit: int) -> bytes:
        """Encode a letter in at most `limit` bytes: a letter that is too large loses the end of its input.

        Otherwise one large letter would block its run for ever.
        """
        data = encode_letter(letter)
        if len(data) <= limit:
            return data
        log.warning("store.input_cut", store=sanitize(self.url), letter=letter.id, size=len(data), limit=limit)
        kept: int = len(letter.input)
        while len(data) > limit and kept:
            kept = min(kept - 1, kept * limit // (2 * len(data)))  # escapes and Base64 need more than a byte for one
            data = encode_letter(replace(letter, input=letter.input[:kept]))
        if len(data) > limit:
            data = encode_letter(replace(letter, input=b"", partial_results=None, message=letter.message[:1000]))
        return data

    def _decode(self, data: bytes, position: object) -> DeadLetter | None:
        """Decode a record. A record that is not a letter is logged and left out."""
        try:
            return decode_letter(data)
        except ValueError as error:
            log.warning("store.record_skipped", store=sanitize(self.url), position=str(position), error=describe(error))
            return None

    def _invalid_cursor(self) -> StoreError:
        return StoreError(
            f"dead-letter store {self.url}: invalid position; pass the `next` of the previous page of this store"
        )

    def _to_store_error(self, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, TimeoutError):
            advice, permanent = f"no reply within {self.timeout:g} seconds; check that the server runs", False
        else:
            advice, permanent = self._advice(error)
        store_error = StoreError(f"dead-letter store {self.url}: {advice}")
        store_error.__cause__ = error
        store_error.permanent = permanent
        return store_error

    def _reset(self) -> None:
        """Create everything that belongs to one event loop."""
        self._statistics += self._appender.statistics
        self._appender = self._make_appender()
        self._lock = asyncio.Lock()
        self._users = 0
        self._checked_at = 0.0
        self._check = None

    def _make_appender(self) -> LogAppender:
        return LogAppender(self._append, self._to_store_error, concurrency=self.concurrency, timeout=self.timeout)

    def _start_check(self) -> None:
        if self._users and self._check is None:
            self._check = asyncio.get_running_loop().create_task(self._run_check(), name="dead letters: check")

    async def _run_check(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await self._ping()
        except Exception as error:
            self._appender.note(self._to_store_error(error))
        else:
            self._appender.note(None)
        finally:
            self._check = None

    def _check_open(self) -> None:
        if not self._users or self._loop is None or self._loop.is_closed():
            raise StoreError(
                f"dead-letter store {self.url}: it is not open; outside of a run, call await store.open() first, and "
                "await store.aclose() at the end"
            )
        if self._loop is not asyncio.get_running_loop():
            raise self._wrong_loop()

    def _wrong_loop(self) -> StoreError:
        return StoreError(
            f"dead-letter store {self.url}: opened in another event loop; close it there, or create a second store"
        )
