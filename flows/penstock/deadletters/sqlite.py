"""Dead letters in a SQLite file: durable, for one machine, readable with any SQLite tool."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.deadletters.apart import Apart
from penstock.deadletters.child import can_start
from penstock.deadletters.committer import Committer
from penstock.deadletters.existing import make_readable
from penstock.deadletters.letter import Letter
from penstock.deadletters.rows import columns_of
from penstock.deadletters.store import PAGE, SQLITE, Filter, Page, Problem, check_file
from penstock.deadletters.threaded import Threaded
from penstock.deadletters.troubles import trouble
from penstock.deadletters.writer import Numbers, Place
from penstock.errors import StoreError, StoreMissing, describe
from penstock.support.text import sanitize
from penstock.threads import in_thread

if TYPE_CHECKING:
    from penstock.deadletters.reader import Reader

Found = TypeVar("Found")


class SqliteStore:
    """The letters in the file that `sqlite:///FILE` names; four slashes begin an absolute path.

    `said` is the URL as it was written, before its variables were filled in: errors name that one.

    `create=False` opens only what is there already and raises `StoreMissing` otherwise. `busy_seconds` is how long a
    statement waits for another process that writes. Letters that other processes add or change are seen at once by
    `get` and `page`, and by `counts` after `refresh_seconds` and a second look.

    `read_only=True` opens only what is there already too, and needs no write permission: `get` and `page` work, `add`
    does not. With one, an older schema is brought up to date all the same; without one that raises `StoreTooOld`.

    `apart=True` has letters written by a process of its own, which ends with this one: beside a busy event loop a
    thread waits for the interpreter longer than it writes. Where there is no Python to start, a thread writes all the
    same.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        busy_seconds: float = 5.0,
        refresh_seconds: float = 5.0,
        said: str | None = None,
        apart: bool = False,
        read_only: bool = False,
    ) -> None:
        check_file(url, url)
        self._read_only = read_only
        self.url = url if said is None else said
        self._path = Path(url.removeprefix(SQLITE))
        self._create = create
        self._refresh_seconds = refresh_seconds
        self._counted_at = 0.0
        self._file = self._path.absolute()  # who writes may be started anew, and who reads begins late
        self._place = Place(os.fsencode(self._file), sanitize(self.url), create, busy_seconds)
        self.patience = self._place.patience
        self._apart = apart and can_start()
        self._busy_seconds = busy_seconds
        self._home: asyncio.AbstractEventLoop | None = None
        """The event loop that it was opened or closed in last, to which all that waits in it is bound."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one that it is open in."""
        self._begin_anew(Numbers())

    @property
    def commits(self) -> int:
        """Groups of letters that were committed."""
        return self._committer.numbers.commits

    @property
    def failures(self) -> int:
        """Groups that could not be."""
        return self._committer.numbers.failures

    @property
    def stored(self) -> int:
        """Letters that were new."""
        return self._committer.numbers.stored

    @property
    def commit_seconds(self) -> float:
        """Time spent in commits, those of failed groups too."""
        return self._committer.numbers.seconds

    @property
    def restarts(self) -> int:
        """Processes that ended before their time; with a thread none."""
        return self._committer.numbers.restarts

    async def open(self) -> None:
        """Connect, create the schema or bring it up to date, and count the letters.

        Who else opens it shares it; it is closed when all of them have closed it. Raises `StoreMissing`, `StoreTooNew`,
        `StoreTooOld`, or `StoreError` with a way out for what the disk refuses.
        """
        left = self._come_home()
        async with self._turn:
            if left is not None:
                await in_thread(left)
            if self._loop is None:
                await self._open()
            self._users += 1

    def _begin_anew(self, numbers: Numbers) -> None:
        hand = Apart(self._place, numbers) if self._apart else Threaded(self._place, numbers)
        self._committer = Committer[Any](hand, self._trouble)
        self._reader: Reader | None = None
        self._turn = asyncio.Lock()
        self._loop = None
        self._users = 0
        """Those who opened it and have not closed it."""

    def _come_home(self) -> Callable[[], None] | None:
        """Be of the event loop that runs; returns what lets go of all that an earlier one left, which was closed.

        What is bound to that one does not answer any more, so all of it is made anew.
        """
        before, self._home = self._home, asyncio.get_running_loop()
        if before is None or before is self._home or not before.is_closed():
            return None
        committer, reader = self._committer, self._reader
        self._begin_anew(committer.numbers)

        def let_go() -> None:
            committer.let_go()
            if reader is not None:
                reader.let_go()

        return let_go

    async def _open(self) -> None:
        try:
            if (self._read_only or not self._create) and not self._path.exists():
                raise StoreMissing(self.url)
            if self._read_only:
                await in_thread(lambda: make_readable(self._file, self._place))
            else:
                await self._committer.open()
        except BaseException as error:
            await self._committer.aclose()
            if isinstance(error, Exception):
                told = self._trouble(error)
                raise told from told.__cause__
            raise
        self._counted_at = time.monotonic()
        self._loop = asyncio.get_running_loop()

    def add(self, letters: Sequence[Letter]) -> Awaitable[None]:
        """Store letters in one durable commit, together with those of other callers."""
        self._refuse_when_closed()
        if self._read_only:
            raise StoreError(f"the dead letters at {self.url} are open for reading only")
        try:
            columns = columns_of(letters)
        except Exception as error:
            raise StoreError(f"a letter cannot be written as a row: {describe(error)}") from error
        return self._committer.store(columns, len(letters))

    async def get(self, id: str) -> Letter | None:
        """One letter, or None."""
        return await self._read(lambda reader: reader.letter(id))

    async def page(self, filter: Filter, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Letters in the order of their ids, beginning after one of them."""
        return await self._read(lambda reader: reader.page(filter, after, limit))

    def counts(self) -> Mapping[str, int]:
        """How many letters there are in each state, as far as this process knows. Never waits."""
        self._check_sometimes()
        return {state: count for state, count in self._committer.numbers.counts.items() if count}

    def problem(self) -> Problem | None:
        """Why letters cannot be stored, as of the last commit or check. Never waits; has it checked again soon."""
        self._check_sometimes()
        return self._committer.problem

    def _check_sometimes(self) -> None:
        if self._is_open and time.monotonic() - self._counted_at >= self._refresh_seconds:
            self._counted_at = time.monotonic()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._look_again)  # metrics may be read in another thread

    async def aclose(self) -> None:
        """Close it for one of those who opened it; with the last, finish what was begun and close the file."""
        left = self._come_home()
        async with self._turn:
            if left is not None:
                await in_thread(left)
            if self._loop is not None:
                self._users -= 1
                if not self._users:
                    await self._close()

    async def _close(self) -> None:
        self._loop = None
        try:
            await self._committer.aclose()
        except Exception as error:
            told = self._trouble(error)
            raise told from told.__cause__
        finally:
            reader, self._reader = self._reader, None
            if reader is not None:
                await reader.aclose()

    async def _read(self, read: Callable[[Reader], Awaitable[Found]]) -> Found:
        self._refuse_when_closed()
        try:
            reader = self._reader
            if reader is None:  # in a thread, because the event loop has no time for an import of 150 ms
                imported = await in_thread(lambda: import_module("penstock.deadletters.reader"))
                self._refuse_when_closed()
                reader = self._reader = self._reader or imported.Reader(
                    self._file, self._busy_seconds, read_only=self._read_only
                )
            return await read(reader)
        except Exception as error:
            told = self._trouble(error)
            raise told from told.__cause__

    @property
    def _is_open(self) -> bool:
        return self._loop is not None and not self._loop.is_closed()

    def _look_again(self) -> None:
        if self._loop is not None:
            self._committer.look_again()

    def _refuse_when_closed(self) -> None:
        if not self._is_open:
            raise StoreError(
                f"the dead letters at {self.url} are not open; who reads them outside of a run opens the store: "
                "await store.open(), and store.aclose() in the end"
            )

    def _trouble(self, error: Exception) -> StoreError:
        return trouble(error, self.url, self._path)
