"""A directory as a source: each file that is put into it is read, and moved away when all of it is settled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
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

log = get_logger()


HINT = "write files elsewhere, then rename them into the directory, or set a longer stable_for"

STABLE_FOR = 10.0
"""Seconds that a file must be unchanged before it is read, unless told otherwise."""

WATCHED = 600.0
"""Seconds that a file is watched after it was moved, for a writer that still has it open."""

REMEMBERED = 1000
"""Files that are watched after they were moved, or that wait in the folder to be read on: the latest of them."""


class CompletedFile(NamedTuple):
    """A file of which all was given out that can be read; it is moved once that is settled."""

    file: FileSnapshot
    first: int
    elements: int
    error: str | None
    progress: ReadProgress


class Watched(NamedTuple):
    """A file that was moved, what was given out of it, and until when it is watched."""

    moved: Moved
    progress: ReadProgress
    until: float


@dataclass(unsafe_hash=True)
class Directory(Source[bytes]):
    """The lines of all files that come into a directory, without end."""

    name = "directory"

    path: str
    pattern: str = "*"
    every: float = 1.0
    stable_for: float = STABLE_FOR
    done: str = "done"
    format: Format | None = None
    limit: int = LINE_LIMIT
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Emitter[bytes]) -> None:
        await DirectoryReader(self, intake).watch()


class DirectoryReader:
    """One run's reading of a directory."""

    def __init__(self, directory: Directory, intake: Emitter[bytes]) -> None:
        self._directory = directory
        self._inbox = DirectoryScanner(
            substitute(directory.path),
            directory.pattern,
            directory.done,
            any_format=directory.format is not None,
            stable_for=directory.stable_for,
            said=directory.path,
        )
        self._intake = intake
        self._finished: CompletedFile | None = None
        self._watched: list[Watched] = []
        self._begun: dict[str, tuple[int, ReadProgress]] = {}
        """Files in the folder that were read before and have grown, by name: their inode, and what was given out."""
        self._now = asyncio.get_running_loop().time
        self._log = log.bind(directory=directory.path)

    async def watch(self) -> None:
        """Poll the directory and read its complete files, until the run ends."""
        await to_thread_uncancellable(self._inbox.create_folders)
        self._intake.on_close(self._close)
        while True:
            await self._take_back()
            for file in await to_thread_uncancellable(partial(self._inbox.scan, self._now())):
                await self._read(file)
            await asyncio.sleep(self._directory.every)

    async def _read(self, file: FileSnapshot) -> None:
        """Give out a file, wait until all of it is settled, and only then move it: a crash before reads it again."""
        if not await to_thread_uncancellable(partial(self._inbox.is_unchanged, file)):
            return  # it went away while others were read, or is still written to: a later poll decides
        first, error = self._intake.seq, None
        inode, before = self._begun.pop(file.name, (file.inode, ReadProgress()))
        lines = LineCounter(partial(self._open, file), before if inode == file.inode else ReadProgress())
        try:
            await emit_lines(self._intake, lines)
        except FileReadFailed as broke:
            error = describe(broke)
        self._report(file, lines, first)
        self._finished = CompletedFile(file, first, self._intake.seq - first, error, lines.progress)
        await self._intake.settled()
        await self._put_away()

    def _open(self, file: FileSnapshot) -> FileLineReader:
        path = str(self._inbox.path / file.name)
        format = format_of(path, self._directory.format)
        splitter = make_splitter(format, self._directory.limit, self._directory.delimiter)
        return FileLineReader(path, splitter, said=self._inbox.display_name(file.name))

    def _report(self, file: FileSnapshot, lines: LineCounter, first: int) -> None:
        """Log what went wrong because a file was written to after it was read."""
        named = {"file": sanitize(file.name), "first_seq": first}
        if lines.rewritten:
            self._log.error("directory.file_rewritten", **named, consequence="all its lines are read again")
        if lines.completed:
            self._log.error(
                "directory.line_completed",
                **named,
                consequence="before, the beginning of this line was read as a line; now it is read completely",
            )

    async def _close(self) -> None:
        """The run is over. What was given out to the end, and settled since, is not to be read again."""
        try:
            if self._intake.all_settled:
                await self._put_away()
            await self._take_back()
        except FileReadFailed as error:
            self._log.error("directory.move_failed", error=describe(error))

    async def _put_away(self) -> None:
        """Log what became of the file that is finished, if there is one, and move it."""
        finished, self._finished = self._finished, None
        if finished is None:
            return
        said = self._log.bind(file=sanitize(finished.file.name), first_seq=finished.first, elements=finished.elements)
        if finished.error is None:
            said.info("directory.file_processed")
        else:
            said.warning("directory.file_failed", error=finished.error, moved_to=FAILED)
        folder = self._directory.done if finished.error is None else FAILED
        moved = await to_thread_uncancellable(partial(self._inbox.move, finished.file, folder))
        match moved:
            case Moved():
                self._watched.append(Watched(moved, finished.progress, self._now() + WATCHED))
            case Obstacle.CHANGED:
                said.error(moved.value, hint=HINT, consequence="it stays, and what is new is read when it is complete")
                self._keep(finished.file.name, finished.file.inode, finished.progress)
            case Obstacle.GONE:
                said.warning(moved.value)

    async def _take_back(self) -> None:
        """Move those files back that were written to after they were moved; what is new in them is read later."""
        if not self._watched:
            return
        watched, self._watched = self._watched, []
        names = await to_thread_uncancellable(lambda: [self._inbox.move_back(each.moved) for each in watched])
        for (moved, progress, _), name in zip(watched, names, strict=True):
            if name is not None:
                self._keep(name, moved.file.inode, progress)
                self._log.error(
                    "directory.file_appended",
                    file=sanitize(moved.file.name),
                    moved_back_as=sanitize(name),
                    hint=HINT,
                    consequence="what is new is read when it is complete",
                )
        now = self._now()
        kept = [each for each, name in zip(watched, names, strict=True) if name is None and each.until > now]
        self._watched = kept[-REMEMBERED:]

    def _keep(self, name: str, inode: int, progress: ReadProgress) -> None:
        """Note what was given out of a file that lies in the folder; of one that is forgotten, all is read again."""
        self._begun[name] = inode, progress
        if len(self._begun) > REMEMBERED:
            del self._begun[next(iter(self._begun))]


def from_directory(
    path: str | PathLike[str],
    *,
    pattern: str = "*",
    every: float = 1.0,
    stable_for: float = STABLE_FOR,
    done: str = "done",
    format: Format | str | None = None,
    limit: int = LINE_LIMIT,
    delimiter: str = ",",
) -> Source[bytes]:
    """A source of the lines of all files that are put into a directory, polled `every` so many seconds.

    A file is taken when its name matches `pattern` and it did not change for `stable_for` seconds, the oldest first,
    and is read as `from_file` does. When all of its elements are settled, it is moved into the subfolder `done`. So
    nothing is lost, and after a crash a file that was not moved is read again from its beginning: at least once. Before
    the next file, the source waits for that.

    Write files elsewhere on the same file system, then rename them into the directory: they are complete at once, and
    `stable_for` may be short. A file that is written to after it was read stays, or is moved back from `done` if that
    happens within ten minutes; an error is logged, and what was appended is read when the file is stable again. After a
    restart such a file is read from its beginning.

    A file that cannot be read to its end is moved into the subfolder `failed`, after what could be read is settled.
    Files whose format is not told, neither by their name nor by `format`, stay where they are. The source never ends;
    drained, it stops between two lines, and the file that it was in the middle of stays. A directory has one reader:
    two runs on it would read each file twice.
    """
    if not every > 0:
        raise ValueError(f"a directory is looked at every so many seconds, above 0, got {every!r}")
    if not stable_for > 0:
        raise ValueError(f"stable_for: expected a number of seconds > 0, got {stable_for!r}")
    if done in ("", ".", "..", FAILED) or Path(done).name != done:
        raise FlowDefinitionError(f"`done` is the name of a subfolder, other than {FAILED!r}, got {done!r}")
    named = None if format is None else named_format(format)
    check_reading(named, limit, delimiter)
    return Directory(fspath(path), pattern, every, stable_for, done, named, limit, delimiter)
