"""Sources of `penstock run`: a file that can be resumed, and standard input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

import msgspec

from penstock.checkpoints.interval_set import IntervalSet
from penstock.core.element import Element, Failure, Outcome
from penstock.deadletters import DeadLetter
from penstock.errors import FileReadFailed
from penstock.formats.format import Format
from penstock.formats.ndjson_reader import BOM, LINE_LIMIT
from penstock.sources import Emitter, Source
from penstock.sources.byte_stream import chunks_of, emit_chunks
from penstock.sources.file import FileLineReader, make_splitter
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.used_files import UsedFile, file_at

HEAD = 64 * 1024
"""Bytes at the beginning of a file that identify it."""


class FileInput(Source[bytes]):
    """The lines of a file without those that are done. The others keep their numbers.

    An element that has a letter already lacks only its line: it is emitted as failed.
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
    def fraction_read(self) -> float:
        """How much was read, from 0 to 1."""
        return min(1.0, self._lines.position / self._size) if self._size else 1.0

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile("the input", self.path),)

    async def produce(self, emitter: Emitter[bytes]) -> None:
        try:
            before = await to_thread_uncancellable(partial(input_fingerprint, self.path))
            while True:
                await emitter.wait_for_capacity()
                lines = await to_thread_uncancellable(self._lines.next)
                if lines is None:
                    break
                await self._emit_unfinished(emitter, lines)
            if await to_thread_uncancellable(partial(_fingerprint_if_exists, self.path)) != before:
                raise FileReadFailed(self.path, "it changed while it was read")
        finally:
            await to_thread_uncancellable(self._lines.close)

    async def _emit_unfinished(self, emitter: Emitter[bytes], lines: list[bytes]) -> None:
        first = self.received
        for start, stop in self._done.missing(first, first + len(lines)):
            for begin, end in self._split_at_letters(start, stop):
                letter = self._letters.get(begin)
                emitter.seq, self.received = begin, end
                chosen = lines[begin - first : end - first]
                if letter is None:
                    await emitter.send(chosen, list(map(len, chosen)))
                else:
                    await emit_failed_element(emitter, chosen[0], letter)
        self.received = first + len(lines)

    def _split_at_letters(self, start: int, stop: int) -> Iterable[tuple[int, int]]:
        """Yield ranges of lines; each line that has a dead letter is a separate range."""
        for seq in sorted(seq for seq in self._letters if start <= seq < stop):
            if start < seq:
                yield start, seq
            yield seq, seq + 1
            start = seq + 1
        if start < stop:
            yield start, stop


async def emit_failed_element(emitter: Emitter[bytes], line: bytes, letter: DeadLetter) -> None:
    """Emit an element whose letter was stored before. It stays failed, and no second letter is stored.

    If a part of it failed, the element runs again, because the other parts have to.
    """
    await emitter.wait_for_capacity()
    emitter.acquire(1)
    element: Element[Any] = Element(line, emitter.seq, emitter.ledger, line)
    if letter.part is None:
        element.key = letter.key
        element.outcome = Outcome.FAILED
        element.failure = Failure(letter.step, letter.type, letter.message, letter.attempts, letter.cause)
    emitter.ledger.mark_stored([element], [letter.id])
    emitter.emit([element])


class PipeInput(Source[bytes]):
    """The lines of standard input, in any format."""

    name = "standard input"

    def __init__(self, format: Format = Format.NDJSON, limit: int = LINE_LIMIT, descriptor: int = 0) -> None:
        super().__init__()
        self._format = format
        self._limit = limit
        self.descriptor = descriptor
        self._head = b""

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile(self.name, self.descriptor),)

    @property
    def fraction_read(self) -> float | None:
        """How much was read, from 0 to 1; None if standard input is not a file."""
        return min(1.0, os.lseek(self.descriptor, 0, os.SEEK_CUR) / self._size) if self._size else None

    @cached_property
    def _size(self) -> int:
        """The size in bytes when it was first asked for; 0 for anything but a file."""
        return size_of(self.descriptor) or 0

    @property
    def failure_hint(self) -> str | None:
        """Suggest the option for CSV."""
        return "the input does not look like NDJSON; for CSV add --format csv" if self._should_be_csv else None

    @property
    def _should_be_csv(self) -> bool:
        """Whether NDJSON was expected, but the first line has a comma and is no JSON, nor an invalid object or list."""
        line = self._head.removeprefix(BOM).lstrip().partition(b"\n")[0]
        if self._format is not Format.NDJSON or b"," not in line or line.startswith((b"{", b"[")):
            return False
        try:
            msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return True
        return False

    async def produce(self, emitter: Emitter[bytes]) -> None:
        await emit_chunks(emitter, self._chunks(), make_splitter(self._format, self._limit))

    async def _chunks(self) -> AsyncIterator[bytes]:
        async for chunk in chunks_of(self.descriptor):
            self._head = self._head or chunk[:HEAD]
            yield chunk


def size_of(file: str | int) -> int | None:
    """Return the size of a regular file in bytes, by path or descriptor; None for anything else."""
    status = file_at(file)
    return None if status is None else status.st_size


def _fingerprint_if_exists(path: str) -> str | None:
    try:
        return input_fingerprint(path)
    except OSError:
        return None


def input_fingerprint(path: str) -> str:
    """Return a text that identifies the content of a file. Raises `OSError`."""
    with open(path, "rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()[:12]
        status = os.fstat(file.fileno())
    return f"{os.path.realpath(path)} of {status.st_size} bytes, changed at {status.st_mtime_ns}, beginning with {head}"
