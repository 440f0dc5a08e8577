"""A directory as a source: each file in it is read, and moved away when all its elements are settled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from penstock.errors import FileReadFailed, FlowDefinitionError, describe
from penstock.formats.format import Format, format_of, named_format
from penstock.formats.ndjson_reader import LINE_LIMIT
from penstock.sources.directory_scanner import FAILED, DirectoryScanner, FileSnapshot, Moved, Obstacle
from penstock.sources.file import FileLineReader, check_reading, emit_lines, make_splitter
from penstock.sources.growth import LineCounter, ReadProgress
from penstock.sources.source import Emitter, Source
from penstock.support.environment import substitute
from penstock.support.logger import get_logger
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.text import sanitize
from penstock.support.used_files import UsedFile

log = get_logger()


HINT = "write files elsewhere, then rename them into the directory, or set a longer stable_for"

STABLE_FOR = 10.0
"""Default seconds that a file must be unchanged before it is read."""

WATCH_SECONDS = 600.0
"""Seconds that a file is watched after it was moved, because its writer may still have it open."""

WATCH_LIMIT = 1000
"""Maximum files watched after they were moved, and maximum partly read files in the directory: the latest ones."""


class CompletedFile(NamedTuple):
    """A file whose elements were all emitted. It is moved when they are settled."""

    file: FileSnapshot
    first: int
    elements: int
    error: str | None
    progress: ReadProgress


class Watched(NamedTuple):
    """A file that was moved, how much of it was emitted, and until when it is watched."""

    moved: Moved
    progress: ReadProgress
    until: float


@dataclass(unsafe_hash=True)
class Directory(Source[bytes]):
    """The lines of all files that appear in a directory, without end."""

    name = "directory"

    path: str
    pattern: str = "*"
    poll_interval: float = 1.0
    stable_for: float = STABLE_FOR
    processed_dir: str = "done"
    format: Format | None = None
    limit: int = LINE_LIMIT
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def endless(self) -> bool:
        return True

    async def produce(self, emitter: Emitter[bytes]) -> None:
        await DirectoryReader(self, emitter).watch()

    def used_files(self) -> Iterable[UsedFile]:
        path = substitute(self.path)
        for name in _file_names(path):
            if fnmatchcase(name, self.pattern):
                yield UsedFile(f"{name} in the source {self.path}", os.path.join(path, name))


def _file_names(folder: str) -> list[str]:
    """Return the names in a folder; none if it cannot be read, which the run will report."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


class DirectoryReader:
    """Reads a directory in one run."""

    def __init__(self, directory: Directory, emitter: Emitter[bytes]) -> None:
        self._directory = directory
        self._scanner = DirectoryScanner(
            substitute(directory.path),
            directory.pattern,
            directory.processed_dir,
            any_format=directory.format is not None,
            stable_for=directory.stable_for,
            display_path=directory.path,
        )
        self._emitter = emitter
        self._finished: CompletedFile | None = None
        self._watched: list[Watched] = []
        self._partly_read: dict[str, tuple[int, ReadProgress]] = {}
        """Files in the directory that were read before and have grown: inode and emitted part, by name."""
        self._now = asyncio.get_running_loop().time
        self._log = log.bind(directory=directory.path)

    async def watch(self) -> None:
        """Poll the directory and read its complete files until the run ends."""
        await to_thread_uncancellable(self._scanner.create_folders)
        self._emitter.on_close(self._close)
        while True:
            await self._move_back_changed()
            for file in await to_thread_uncancellable(partial(self._scanner.scan, self._now())):
                await self._read(file)
            await asyncio.sleep(self._directory.poll_interval)

    async def _read(self, file: FileSnapshot) -> None:
        """Emit a file, wait until its elements are settled, then move it: after a crash it is read again."""
        if not await to_thread_uncancellable(partial(self._scanner.is_unchanged, file)):
            return  # it was removed while others were read, or is still being written: a later poll decides
        first, error = self._emitter.seq, None
        inode, before = self._partly_read.pop(file.name, (file.inode, ReadProgress()))
        lines = LineCounter(partial(self._open, file), before if inode == file.inode else ReadProgress())
        try:
            await emit_lines(self._emitter, lines)
        except FileReadFailed as failure:
            error = describe(failure)
        self._report(file, lines, first)
        self._finished = CompletedFile(file, first, self._emitter.seq - first, error, lines.progress)
        await self._emitter.settled()
        await self._move_finished()

    def _open(self, file: FileSnapshot) -> FileLineReader:
        path = str(self._scanner.path / file.name)
        format = format_of(path, self._directory.format)
        splitter = make_splitter(format, self._directory.limit, self._directory.delimiter)
        return FileLineReader(path, splitter, display_path=self._scanner.display_name(file.name))

    def _report(self, file: FileSnapshot, lines: LineCounter, first: int) -> None:
        """Log that a file was written to after it was read."""
        fields = {"file": sanitize(file.name), "first_seq": first}
        if lines.rewritten:
            self._log.error("directory.file_rewritten", **fields, consequence="all its lines are read again")
        if lines.completed:
            self._log.error(
                "directory.line_completed",
                **fields,
                consequence="before, the beginning of this line was read as a line; now it is read completely",
            )

    async def _close(self) -> None:
        """Finish with the run: a file that was emitted completely and is settled now must not be read again."""
        try:
            if self._emitter.all_settled:
                await self._move_finished()
            await self._move_back_changed()
        except FileReadFailed as error:
            self._log.error("directory.move_failed", error=describe(error))

    async def _move_finished(self) -> None:
        """Log the result of the completed file, if there is one, and move it."""
        finished, self._finished = self._finished, None
        if finished is None:
            return
        log = self._log.bind(file=sanitize(finished.file.name), first_seq=finished.first, elements=finished.elements)
        if finished.error is None:
            log.info("directory.file_processed")
        else:
            log.warning("directory.file_failed", error=finished.error, moved_to=FAILED)
        folder = self._directory.processed_dir if finished.error is None else FAILED
        moved = await to_thread_uncancellable(partial(self._scanner.move, finished.file, folder))
        match moved:
            case Moved():
                self._watched.append(Watched(moved, finished.progress, self._now() + WATCH_SECONDS))
            case Obstacle.CHANGED:
                log.error(moved.value, hint=HINT, consequence="it stays, and new lines are read when it is complete")
                self._remember(finished.file.name, finished.file.inode, finished.progress)
            case Obstacle.GONE:
                log.warning(moved.value)

    async def _move_back_changed(self) -> None:
        """Move files back that were written to after they were moved. Their new lines are read later."""
        if not self._watched:
            return
        watched, self._watched = self._watched, []
        names = await to_thread_uncancellable(lambda: [self._scanner.move_back(each.moved) for each in watched])
        for (moved, progress, _), name in zip(watched, names, strict=True):
            if name is not None:
                self._remember(name, moved.file.inode, progress)
                self._log.error(
                    "directory.file_appended",
                    file=sanitize(moved.file.name),
                    moved_back_as=sanitize(name),
                    hint=HINT,
                    consequence="new lines are read when it is complete",
                )
        now = self._now()
        kept = [each for each, name in zip(watched, names, strict=True) if name is None and each.until > now]
        self._watched = kept[-WATCH_LIMIT:]

    def _remember(self, name: str, inode: int, progress: ReadProgress) -> None:
        """Remember how much of a file was emitted. Files beyond the limit are read again completely."""
        self._partly_read[name] = inode, progress
        if len(self._partly_read) > WATCH_LIMIT:
            del self._partly_read[next(iter(self._partly_read))]


def from_directory(
    path: str | PathLike[str],
    *,
    pattern: str = "*",
    poll_interval: float = 1.0,
    stable_for: float = STABLE_FOR,
    processed_dir: str = "done",
    format: Format | str | None = None,
    limit: int = LINE_LIMIT,
    delimiter: str = ",",
) -> Source[bytes]:
    """Make a source of the lines of all files in a directory, which is polled every `poll_interval` seconds.

    A file is read, as by `from_file`, when its name matches `pattern` and it did not change for `stable_for` seconds;
    the oldest first. When all its elements are settled, it is moved into the subfolder `processed_dir`. So nothing is
    lost, and after a crash a file that was not moved is read again from its beginning: delivery is at least once. The
    source waits for this before it reads the next file.

    Write files elsewhere on the same file system, then rename them into the directory: they are complete at once, and
    `stable_for` may be short. A file that is written to after it was read stays, or is moved back from `processed_dir`
    if that happens within ten minutes; an error is logged, and appended lines are read when the file is stable again.
    After a restart such a file is read from its beginning.

    A file that cannot be read to its end is moved into the subfolder `failed` when the elements before the error are
    settled. Files whose format is unknown, by name and by `format`, stay where they are. The source never ends. When it
    is drained, it stops between two lines, and its current file stays. A directory has one reader: two runs would read
    each file twice.
    """
    if not poll_interval > 0:
        raise ValueError(f"poll_interval: expected a number of seconds > 0, got {poll_interval!r}")
    if not stable_for > 0:
        raise ValueError(f"stable_for: expected a number of seconds > 0, got {stable_for!r}")
    if processed_dir in ("", ".", "..", FAILED) or Path(processed_dir).name != processed_dir:
        raise FlowDefinitionError(
            f"processed_dir: expected the name of a subfolder other than {FAILED!r}, got {processed_dir!r}"
        )
    named = None if format is None else named_format(format)
    check_reading(named, limit, delimiter)
    return Directory(fspath(path), pattern, poll_interval, stable_for, processed_dir, named, limit, delimiter)
