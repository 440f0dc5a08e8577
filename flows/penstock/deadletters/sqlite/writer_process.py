"""Runs the writer in a subprocess, so that the event loop has the interpreter of this process to itself."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from msgspec import msgpack

from penstock.deadletters.sql.rows import Columns
from penstock.deadletters.sqlite.group_commit import OnDone
from penstock.deadletters.sqlite.writer import WriterConfig, WriterStatistics
from penstock.deadletters.sqlite.writer_main import (
    AddMessage,
    AddReply,
    FatalMessage,
    OpenMessage,
    deserialize_error,
    encode_frame,
)
from penstock.deadletters.sqlite.writer_subprocess import WriterSubprocess
from penstock.deadletters.sqlite.writer_thread import WriterThread
from penstock.errors import StoreError, WriterCrashed, WriterStartFailed, describe
from penstock.support.logger import get_logger

log = get_logger()

REPLY_SECONDS = 60.0
"""Timeout for starting the process or for one group, on top of the lock timeout. Then the process is killed.

A disk that hangs may answer the next process. Letters that are stored already are not stored twice.
"""

_decoder: msgpack.Decoder[Any] = msgpack.Decoder(AddReply | FatalMessage)


class WriterProcess:
    """Runs a `Writer` in a subprocess, which is started with the first letter and restarted after a crash.

    Until then a thread opens the database, so that a file that cannot be written is reported at the start, and checks
    it. A run without failures starts no process.
    """

    def __init__(self, config: WriterConfig, statistics: WriterStatistics | None = None) -> None:
        self.statistics = statistics or WriterStatistics()
        self.copies: tuple[str, ...] = ()
        """The copies of the store. It may be replaced at any time."""
        self._config = config
        self._thread: WriterThread | None = None
        """Has the database open until the first letter."""
        self._process: WriterSubprocess | None = None
        self._exiting: set[WriterSubprocess] = set()
        """Processes that have disconnected and not exited yet."""
        self._started = False
        """Whether a process was started since `open`. When it crashes, its counters may lack letters that it stored."""
        self._closing = False
        self._opened = False
        """Whether the current process has opened the database."""
        self._fatal: Exception | None = None
        """The last message of the current process."""
        self._on_done: OnDone | None = None
        self._has_batches = False

    @property
    def timeout(self) -> float:
        """Seconds that a group takes at most, unless the disk hangs."""
        return self._config.timeout

    def serialize(self, columns: Columns) -> bytes:
        """Encode the letters of one caller as a frame."""
        return encode_frame(columns)

    async def open(self) -> None:
        """Open the database in a thread."""
        self._started = self._closing = False
        self._thread = WriterThread(self._config, self.statistics)
        await self._thread.open()

    def submit(self, batches: list[bytes], *, refresh: bool, on_done: OnDone) -> None:
        """Send a group to the process. Start it if necessary, except for a check before the first letter."""
        if self._thread is None:
            self._send(batches, refresh=refresh, on_done=on_done)
        elif not batches:
            self._thread.submit([], refresh=refresh, on_done=on_done)
        else:
            # A file that was replaced or truncated is noticed by the thread only, which has had it open.
            on_checked = partial(self._start_with, batches, on_done)
            self._thread.submit([], refresh=True, on_done=on_checked)

    async def aclose(self) -> None:
        """Have the process close the database, and wait until it has exited."""
        self._closing = True
        if self._thread is not None:
            await self._thread.aclose()
        for process in (self._process, *self._exiting):
            if process is not None:
                await process.aclose(self._config.timeout)
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    def kill(self) -> None:
        """Kill the process."""
        self._closing = True
        if self._process is not None:
            self._process.kill()

    def close_detached(self) -> None:
        """Have the thread close the database, or kill the process. Letters under way were not reported as stored."""
        if self._thread is not None:
            self._thread.close_detached()
        elif self._process is not None:
            self._process.close_detached()

    def _start_with(self, batches: list[bytes], on_done: OnDone, outcome: list[Exception | None] | Exception) -> None:
        """Start the process with the first letters, unless the check before it failed."""
        error = outcome if isinstance(outcome, Exception) else outcome[0]
        if error is None and self._closing:
            error = WriterStartFailed(self._config.url, "the store was closed")
        if error is not None:
            self.statistics.failures += 1
            on_done([error] * len(batches))
            return
        assert self._thread is not None
        self._thread.close_detached()
        self._thread = None
        self._send(batches, refresh=False, on_done=on_done)

    def _send(self, batches: list[bytes], *, refresh: bool, on_done: OnDone) -> None:
        if self._process is not None:
            self._process.poll()  # one that has ended in the meantime is replaced
        self._on_done, self._has_batches = on_done, bool(batches)
        data = b"".join([encode_frame(AddMessage(len(batches), refresh, self.copies)), *batches])
        if self._process is None:
            # The thread has just counted the letters, and counting reads the whole table: 9 s for a million letters.
            data = encode_frame(OpenMessage(self._config, self.statistics, self._started)) + data
            self._started, self._opened, self._fatal = True, False, None
            self._process = WriterSubprocess(
                self._config.url,
                timeout=self._timeout,
                on_message=self._on_message,
                on_disconnect=self._on_disconnect,
                on_end=self._on_end,
            )
        self._process.send(data)

    @property
    def _timeout(self) -> float:
        return REPLY_SECONDS + self._config.timeout

    def _on_message(self, data: bytes) -> bool:
        message = _decoder.decode(data)
        if isinstance(message, FatalMessage):
            self._fatal = deserialize_error(message.error)  # reported when the process has exited, as it does now
            return True
        self.statistics = message.statistics
        if not self._opened:
            self._opened = True
            return True
        self._report([None if error is None else deserialize_error(error) for error in message.errors])
        return False

    def _on_disconnect(self, process: WriterSubprocess) -> None:
        """If no caller waits for the process that has disconnected, the next one gets another process."""
        self._exiting.add(process)
        if self._on_done is None and self._process is process:
            self._process = None

    def _on_end(self, process: WriterSubprocess, outcome: int | Exception) -> None:
        """Report the exit code of a process, or why it could not be started, to the callers that wait for it."""
        self._exiting.discard(process)
        if self._process is not process:
            if isinstance(outcome, int) and outcome != 0:
                self._log_crash(process, outcome)
            return
        self._process = None
        error, self._fatal = self._fatal or self._end_error(process, outcome), None
        self._report(error)

    def _end_error(self, process: WriterSubprocess, outcome: int | Exception) -> StoreError:
        if isinstance(outcome, Exception):
            reason = getattr(outcome, "strerror", None) or describe(outcome)
            return WriterStartFailed(self._config.url, f"{reason} ({sys.executable})")
        how = self._log_crash(process, outcome)
        if self._opened:
            return WriterCrashed(self._config.url, how)
        advice = "check the disk" if process.timed_out else "see standard error"
        return WriterStartFailed(self._config.url, f"it ended before it was ready ({how}); {advice}")

    def _log_crash(self, process: WriterSubprocess, code: int) -> str:
        if process.timed_out:
            how = f"no reply for {self._timeout:g} s, killed"
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.statistics.restarts += 1
        log.warning("store.writer_crashed", dead_letters=self._config.url, how=how)
        return how

    def _report(self, outcome: list[Exception | None] | Exception) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        if isinstance(outcome, Exception):
            self.statistics.failures += self._has_batches
        on_done(outcome)
