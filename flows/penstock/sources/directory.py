"""A directory as a source: each file that is put into it is read, and moved away when all of it is settled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

import structlog

from penstock.environment import filled
from penstock.errors import FileBroke, FlowError, describe
from penstock.formats import Format, format_of, named_format
from penstock.sources.files import FileLines, check_reading, give_out, make_splitter
from penstock.sources.inbox import FAILED, Inbox, Seen, readable
from penstock.sources.ndjson import LINE_LIMIT
from penstock.sources.source import Intake, Source
from penstock.threads import in_thread

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Finished(NamedTuple):
    """A file of which all was given out that can be read; it is moved once that is settled."""

    file: Seen
    first: int
    elements: int
    error: str | None


@dataclass(unsafe_hash=True)
class Directory(Source[bytes]):
    """The lines of all files that come into a directory, without end."""

    name = "directory"

    path: str
    pattern: str = "*"
    every: float = 1.0
    done: str = "done"
    format: Format | None = None
    limit: int = LINE_LIMIT
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Intake[bytes]) -> None:
        await Watch(self, intake).watch()


class Watch:
    """One run's look after a directory."""

    def __init__(self, directory: Directory, intake: Intake[bytes]) -> None:
        self._directory = directory
        self._inbox = Inbox(
            filled(directory.path),
            directory.pattern,
            directory.done,
            any_format=directory.format is not None,
            said=directory.path,
        )
        self._intake = intake
        self._finished: Finished | None = None
        self._log = log.bind(directory=directory.path)

    async def watch(self) -> None:
        """Look again and again, and read what is whole."""
        await in_thread(self._inbox.make_folders)
        self._intake.on_close(self._close)
        while True:
            for file in await in_thread(self._inbox.look):
                await self._read(file)
            await asyncio.sleep(self._directory.every)

    async def _read(self, file: Seen) -> None:
        """Give out a file, wait until all of it is settled, and only then move it: a crash before reads it again."""
        if not await in_thread(partial(self._inbox.is_as_seen, file)):
            return  # it went away while others were read, or is still written to: a later look decides
        first, path, error = self._intake.seq, str(self._inbox.path / file.name), None
        format = format_of(path, self._directory.format)
        splitter = make_splitter(format, self._directory.limit, self._directory.delimiter)
        try:
            await give_out(self._intake, FileLines(path, splitter, said=self._inbox.called(file.name)))
        except FileBroke as broke:
            error = describe(broke)
        self._finished = Finished(file, first, self._intake.seq - first, error)
        await self._intake.settled()
        await self._put_away()

    async def _close(self) -> None:
        """The run is over. What was given out to the end, and settled since, is not to be read again."""
        if self._intake.all_settled:
            try:
                await self._put_away()
            except FileBroke as error:
                self._log.error("directory.move_failed", error=describe(error))

    async def _put_away(self) -> None:
        """Say what became of the file that is finished, if there is one, and move it."""
        finished, self._finished = self._finished, None
        if finished is None:
            return
        said = self._log.bind(file=readable(finished.file.name), first_seq=finished.first, elements=finished.elements)
        if finished.error is None:
            said.info("directory.file_done")
        else:
            said.warning("directory.file_failed", error=finished.error, moved_to=FAILED)
        folder = self._directory.done if finished.error is None else FAILED
        obstacle = await in_thread(partial(self._inbox.move, finished.file, folder))
        if obstacle is not None:
            said.warning(obstacle)


def from_directory(
    path: str | PathLike[str],
    *,
    pattern: str = "*",
    every: float = 1.0,
    done: str = "done",
    format: Format | str | None = None,
    limit: int = LINE_LIMIT,
    delimiter: str = ",",
) -> Source[bytes]:
    """A source of the lines of all files that are put into a directory, looked for `every` so many seconds.

    A file is taken when its name matches `pattern` and it did not change between two looks, the oldest first, and is
    read as `from_file` does. When all of its elements are settled, it is moved into the subfolder `done`. So nothing
    is lost, and after a crash a file that was not moved is read again from its beginning: at least once. Before the
    next file, the source waits for that.

    A file that cannot be read to its end is moved into the subfolder `failed`, after what could be read is settled.
    Files whose format is not told, neither by their name nor by `format`, stay where they are. The source never ends;
    drained, it stops between two lines, and the file that it was in the middle of stays. A directory has one reader:
    two runs on it would read each file twice.
    """
    if not every > 0:
        raise ValueError(f"a directory is looked at every so many seconds, above 0, got {every!r}")
    if done in ("", ".", "..", FAILED) or Path(done).name != done:
        raise FlowError(f"`done` is the name of a subfolder, other than {FAILED!r}, got {done!r}")
    named = None if format is None else named_format(format)
    check_reading(named, limit, delimiter)
    return Directory(fspath(path), pattern, every, done, named, limit, delimiter)
