"""Limits that hold for all processes of a service together, in memory that they share.

The memory is a table. A column belongs to one limit, such as that of a service, and is found by the digest of its name.
It has a cell for each process, which only that process writes, and the parent when the process has exited. Whatever
depends on the cells of others happens under a lock, which the kernel releases if its holder dies.

The lock is held for microseconds. If a holder is stopped just then, the others do not wait for it: they go on with an
equal part of each limit until it continues or is killed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import blake2b

import structlog

from penstock.errors import PenstockError
from penstock_http.processes.shares import next_share

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LIMITS = "limits"
"""The name of the descriptor of the table."""

COLUMNS = 1024
"""Maximum number of limits: services, and flows with a limit of runs."""

LOCK_SECONDS = 0.2
"""Seconds that the event loop waits for the lock at most. Its holder is stopped or starved after so long."""

LOCK_PAUSE = 1.0
"""Seconds without another attempt after that."""


class LimitsUnavailable(PenstockError):
    """The table cannot be used now: its lock is held by a process that is stopped, or all columns are in use."""


class ColumnsInUse(LimitsUnavailable):
    """All columns of the table are in use."""


def create_memory(processes: int) -> int:
    """Create the table for a service with so many processes, empty. Returns its file descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("penstock-limits")
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _size(processes))
    return descriptor


class SharedLimits:
    """The table as one process sees it: `number` from 1, or 0 for the parent. It owns the descriptor."""

    def __init__(self, descriptor: int, processes: int, number: int) -> None:
        self.processes = processes
        self.descriptor = descriptor
        self._number = number
        self._rows = _rows(processes)
        assert 0 <= number < self._rows, number
        memory = memoryview(mmap.mmap(descriptor, _size(processes)))
        cells = COLUMNS * self._rows * 4
        self._keys = memory[: COLUMNS * 8].cast("Q")
        """The digest of the name of each limit; 0 if the column was never used."""
        self._slots = memory[COLUMNS * 8 : COLUMNS * 16].cast("d")
        """When the next call of a service with a `rate` may start, in seconds of the monotonic clock."""
        self._held = memory[COLUMNS * 16 : COLUMNS * 16 + cells].cast("I")
        """What each process has of each limit: calls that it may have in flight, or open runs."""
        self._demands = memory[COLUMNS * 16 + cells : COLUMNS * 16 + 2 * cells].cast("I")
        """One more than the calls of a service that each process has in flight or waiting; 0 if it does not use it."""
        self._columns: dict[str, tuple[int, int]] = {}
        """The digest and the column of each name, as far as this process knows them."""
        self._retry_at = 0.0

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Hold the lock. Raises `LimitsUnavailable`, also during a while after it did."""
        now = time.monotonic()
        if now < self._retry_at:
            raise LimitsUnavailable
        while not self._try_lock():
            if time.monotonic() - now > LOCK_SECONDS:
                self._retry_at = time.monotonic() + LOCK_PAUSE
                log.warning("limits.lock_held", seconds=LOCK_SECONDS, effect="equal parts of each limit until later")
                raise LimitsUnavailable
            # Blocks the event loop on purpose: the lock is held for microseconds, and never waited for longer than
            # LOCK_SECONDS. A hop to a thread would cost more for every run that starts.
            time.sleep(LOCK_SECONDS / 2000)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def reserve(self, name: str, interval: float, now: float) -> float:
        """Reserve the next time slot of a rate: `interval` seconds after the last one. Returns the seconds until it."""
        with self.locked():
            column = self._column(name)
            slot = max(now, self._slots[column])
            self._slots[column] = slot + interval
            return slot - now

    def update_share(self, name: str, total: int, demand: int, busy: int) -> int:
        """Report the calls of a service and return how many may be in flight here. The lock is held.

        `demand` are the calls in flight or waiting, `busy` are those in flight, never more than the last result unless
        that has shrunk.
        """
        column = self._column(name)
        cell = column * self._rows + self._number
        self._demands[cell] = demand + 1
        cells = slice(column * self._rows, (column + 1) * self._rows)
        demands, held = self._demands[cells].tolist(), self._held[cells].tolist()
        users = [number for number, demand in enumerate(demands) if demand]
        # A process that has not called the service yet finds a call free, also while the others are stopped.
        own_total = max(len(users), total - max(0, self.processes - len(users)))
        share = next_share(
            own_total, [demands[user] - 1 for user in users], [held[user] for user in users], users.index(self._number)
        )
        self._held[cell] = max(share, busy)
        return share

    def cells(self, name: str) -> bytes:
        """Return the cells of all processes for a service, as they are now; empty for a name that is not known here."""
        if name not in self._columns:
            return b""
        _, column = self._columns[name]
        cells = slice(column * self._rows, (column + 1) * self._rows)
        return bytes(self._demands[cells]) + bytes(self._held[cells])

    def take(self, name: str, limit: int) -> bool:
        """Take one of `limit`, unless all processes together have so many."""
        with self.locked():
            column = self._column(name)
            if self._total(column) >= limit:
                return False
            self._held[column * self._rows + self._number] += 1
            return True

    def total(self, name: str) -> int:
        """Return how many all processes have."""
        with self.locked():
            return self._total(self._column(name))

    def give_back(self, name: str, count: int = 1) -> None:
        """Return what this process took."""
        _, column = self._columns[name]  # a column is not given to another name while a cell of it is in use
        cell = column * self._rows + self._number
        self._held[cell] = max(0, self._held[cell] - count)

    def leave(self, name: str) -> None:
        """Free the share of this process in a service that it does not use any more."""
        if name not in self._columns:
            return
        _, column = self._columns.pop(name)
        cell = column * self._rows + self._number
        self._demands[cell] = self._held[cell] = 0

    def forget(self, number: int) -> None:
        """Free everything that a process had. It has exited."""
        for cells in (self._demands, self._held):
            for column in range(COLUMNS):
                if cells[column * self._rows + number]:
                    cells[column * self._rows + number] = 0

    def _total(self, column: int) -> int:
        return sum(self._held[column * self._rows : (column + 1) * self._rows])

    def _column(self, name: str) -> int:
        """Return the column of a name. The lock is held. Raises `LimitsUnavailable` if all columns are in use."""
        digest, column = self._columns.get(name, (0, 0))
        if digest and self._keys[column] == digest:
            return column
        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") or 1
        keys = self._keys.tolist()
        column = keys.index(digest) if digest in keys else self._free_column(keys)
        self._keys[column] = digest
        self._columns[name] = digest, column
        return column

    def _free_column(self, keys: list[int]) -> int:
        """Return a column that was never used, or one without information: no cell in use, no slot in the future."""
        if 0 in keys:
            return keys.index(0)
        now = time.monotonic()
        for column in range(COLUMNS):
            cells = slice(column * self._rows, (column + 1) * self._rows)
            if self._slots[column] <= now and not any(self._held[cells]) and not any(self._demands[cells]):
                return column
        raise ColumnsInUse


class LimitsResource:
    """The table in the parent, which gives it to each process and frees what a process had when it has exited."""

    def __init__(self, processes: int) -> None:
        self._limits = SharedLimits(create_memory(processes), processes, 0)

    def attach(self, number: int) -> dict[str, int]:
        """Return a descriptor of the table."""
        return {LIMITS: os.dup(self._limits.descriptor)}

    def detach(self, number: int) -> None:
        """Free what a process had."""
        self._limits.forget(number)


def _rows(processes: int) -> int:
    """Return the number of cells of a column: a process that is replaced and its successor have different numbers."""
    return 2 * processes + 1


def _size(processes: int) -> int:
    return COLUMNS * (16 + 8 * _rows(processes))
