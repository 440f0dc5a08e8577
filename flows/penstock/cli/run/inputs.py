"""Where the elements of a run come from, and how far into its input it is."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from penstock.checkpoints.interval_set import IntervalSet
from penstock.core.element import Element, Failure, Outcome
from penstock.deadletters import DeadLetter
from penstock.errors import FileReadFailed
from penstock.formats.format import Format
from penstock.formats.ndjson_reader import LINE_LIMIT
from penstock.sources import Emitter, Source
from penstock.sources.byte_stream import chunks_of, emit_chunks
from penstock.sources.file import FileLineReader, make_splitter
from penstock.support.tasks import to_thread_uncancellable

HEAD = 64 * 1024
"""Bytes at the beginning of a file that it is known again by."""


class FileInput(Source[bytes]):
    """The lines of a file, those left out that are done; the others keep their numbers.

    Of an element that has a letter already, nothing is left to do but its line: it is given out as failed.
    """

    name = "file"

    def __init__(
        self, path: str, format: Format, *, done: Iterable[tuple[int, int]] = (), letters: Mapping[int, DeadLetter] = {}
    ) -> None:
        super().__init__()
        self.path = path
        self._lines = FileLineReader(path, make_splitter(format))
        self._done = IntervalSet(done)
        self._letters = letters
        self._size = size_of(path) or 0
        self.received = 0
        """The number of the next line."""

    @property
    def share_read(self) -> float:
        """How much was read, from 0 to 1."""
        return min(1.0, self._lines.position / self._size) if self._size else 1.0

    async def produce(self, intake: Emitter[bytes]) -> None:
        try:
            before = await to_thread_uncancellable(partial(file_identity, self.path))
            while True:
                await intake.wait_for_capacity()
                lines = await to_thread_uncancellable(self._lines.next)
                if lines is None:
                    break
                await self._give_out(intake, lines)
            if await to_thread_uncancellable(partial(_identity_if_exists, self.path)) != before:
                raise FileReadFailed(self.path, "it changed while it was read")
        finally:
            await to_thread_uncancellable(self._lines.close)

    async def _give_out(self, intake: Emitter[bytes], lines: list[bytes]) -> None:
        first = self.received
        for start, stop in self._done.missing(first, first + len(lines)):
            for begin, end in self._stretches(start, stop):
                letter = self._letters.get(begin)
                intake.seq, self.received = begin, end
                chosen = lines[begin - first : end - first]
                if letter is None:
                    await intake.send(chosen, list(map(len, chosen)))
                else:
                    await emit_failed_element(intake, chosen[0], letter)
        self.received = first + len(lines)

    def _stretches(self, start: int, stop: int) -> Iterable[tuple[int, int]]:
        """The lines from one to another, each that has a letter by itself."""
        for seq in sorted(seq for seq in self._letters if start <= seq < stop):
            if start < seq:
                yield start, seq
            yield seq, seq + 1
            start = seq + 1
        if start < stop:
            yield start, stop


async def emit_failed_element(intake: Emitter[bytes], line: bytes, letter: DeadLetter) -> None:
    """Give out an element whose letter was stored before: it stays failed, and no second letter is written.

    When it was a part of it that failed, it runs again, because the other parts have to.
    """
    await intake.wait_for_capacity()
    intake.acquire(1)
    element: Element[Any] = Element(line, intake.seq, intake.ledger, line)
    if letter.part is None:
        element.key = letter.key
        element.outcome = Outcome.FAILED
        element.failure = Failure(letter.step, letter.type, letter.message, letter.attempts, letter.cause)
    intake.ledger.mark_stored([element], [letter.id])
    intake.emit([element])


class PipeInput(Source[bytes]):
    """The lines of standard input, in any format."""

    name = "standard input"

    def __init__(self, format: Format = Format.NDJSON, limit: int = LINE_LIMIT, descriptor: int = 0) -> None:
        super().__init__()
        self._format = format
        self._limit = limit
        self.descriptor = descriptor

    async def produce(self, intake: Emitter[bytes]) -> None:
        await emit_chunks(intake, chunks_of(self.descriptor), make_splitter(self._format, self._limit))


def size_of(path: str) -> int | None:
    """Bytes of a regular file; None for anything else."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def stdin_fraction(descriptor: int = 0) -> Callable[[], float] | None:
    """How much of standard input was read, from 0 to 1, if it is a file."""
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or not facts.st_size:
        return None
    return lambda: min(1.0, os.lseek(descriptor, 0, os.SEEK_CUR) / facts.st_size)


def _identity_if_exists(path: str) -> str | None:
    try:
        return file_identity(path)
    except OSError:
        return None


def file_identity(path: str) -> str:
    """What a file is known again by. Raises `OSError`."""
    with open(path, "rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()[:12]
        facts = os.fstat(file.fileno())
    return f"{os.path.realpath(path)} of {facts.st_size} bytes, changed at {facts.st_mtime_ns}, beginning with {head}"
