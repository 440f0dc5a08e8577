"""FileSink: appends values to a file as NDJSON or CSV, compressed or not."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike, fspath
from typing import Any

from penstock.errors import MissingVariable, SinkConflict, SinkWriteFailed
from penstock.formats.format import Format, format_of
from penstock.formats.writers import check_fields
from penstock.sinks.append_file import (
    AppendFile,
    FileFingerprint,
    check_path,
    check_unlocked,
    describe_settings,
    identity,
)
from penstock.sinks.sink import Sink
from penstock.support.environment import display_text, substitute
from penstock.support.tasks import to_thread_uncancellable


@dataclass(unsafe_hash=True, init=False)
class FileSink:
    """Appends values to a file: `.ndjson`, `.jsonl` or `.csv`, each also with `.gz`; `format` is for other names.

    Each write appends complete lines at once. A failed write, for example on a full disk, leaves none of its lines.
    Closing syncs the file to disk. An incomplete line that a killed process left at the end is moved to FILE.torn when
    the file is opened (`sink.torn_tail_moved`), so that no new line is appended to it. A file has one writer at a time:
    it is locked. While another process holds the lock, elements wait (`sink.waiting`), at most a minute; then the run
    fails. Sinks of one process that name one file, by any path, share it if they have the same settings; otherwise the
    run of the second one fails.

    A CSV file has a header, written when the file is new or empty. Its columns are those of the file, or `fields`, or
    else the fields of the first value; a value with other fields fails alone. Values other than text are written as
    JSON. NaN and infinities are not valid JSON: a value that contains one fails alone, in either format.

    Each time a compressed file is opened, a new member is appended. The file can be read up to the last write at any
    time. A compressed file or a CSV file that another process closed is read when it is opened, to check that its end
    is complete. A compressed file whose last member was cut off is moved to FILE.torn as a whole, and a new file is
    started. A file that is damaged, or not a gzip file, is rejected and left unchanged.
    """

    path: str
    format: Format
    fields: tuple[str, ...] | None
    name: str = field(compare=False)
    _file: AppendFile | None = field(repr=False, compare=False)
    _closed: FileFingerprint | None = field(repr=False, compare=False)

    def __init__(
        self, path: str | PathLike[str], *, format: Format | str | None = None, fields: Sequence[str] | None = None
    ) -> None:
        self.path = fspath(path)
        self.format = format_of(self.path, format)
        self.fields = check_fields(self.format, fields)
        self.name = ""
        self._file = None
        self._closed = None

    def check(self, *, locks: bool) -> None:
        """Raise `SinkWriteFailed` if the file cannot be written; with `locks`, also if another process writes to it."""
        path, display_path = substitute(self.path), display_text(self.path)
        check_path(path, display_path)
        if locks:
            check_unlocked(path, display_path)

    @property
    def settings(self) -> str:
        """The format and fields, for messages."""
        return describe_settings(self.format, self.fields)

    def file_keys(self) -> list[Hashable]:
        """Return keys of the file: the path without links, and device and inode if the file exists.

        Two sinks name one file if they have one of these in common.
        """
        try:
            path = os.path.realpath(substitute(self.path))
        except MissingVariable:
            return []
        try:
            return [path, identity(path)]
        except OSError:
            return [path]

    def has_same_settings(self, other: FileSink) -> bool:
        """Return whether both have the same settings."""
        return (self.format, self.fields) == (other.format, other.fields)

    def can_share(self, other: FileSink) -> bool:
        """Return whether both name one file and may share it."""
        return self.has_same_settings(other) and not set(self.file_keys()).isdisjoint(other.file_keys())

    async def open(self) -> None:
        """Open the file, creating it if it does not exist. Raises `SinkWriteFailed`."""
        file = AppendFile(substitute(self.path), self.format, self.fields, display_text(self.path))
        try:
            await to_thread_uncancellable(partial(file.open, self._closed))
        except BaseException:
            await to_thread_uncancellable(file.close)
            raise
        self._file = file

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Append values. Return the errors of those that cannot be written. Raises `SinkWriteFailed`."""
        if self._file is None:
            raise SinkWriteFailed(self.path, "it is not open")
        return await to_thread_uncancellable(partial(self._file.write, values))

    async def aclose(self) -> None:
        """Sync the file to disk and close it. Raises `SinkWriteFailed`."""
        file, self._file = self._file, None
        if file is not None:
            self._closed = None
            self._closed = await to_thread_uncancellable(file.finish)


def check_sinks(sinks: Iterable[Sink], *, locks: bool) -> None:
    """Raise `SinkWriteFailed` for the first file that cannot be written, before anything runs.

    Raises `SinkConflict` for a file that two sinks name with different settings.
    """
    files = SinkFiles()
    for sink in sinks:
        if isinstance(sink, FileSink):
            sink.check(locks=locks)
            if (conflict := files.find_conflict([sink])) is not None:
                raise conflict
            files.add([sink])


class SinkFiles:
    """The files that sinks name, with their settings: sinks of one file must have the same."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[FileSink, str]] = {}

    def find_conflict(self, sinks: Iterable[Sink]) -> SinkConflict | None:
        """Return the first conflict of these sinks with known ones: the same file with other settings."""
        for sink in sinks:
            if isinstance(sink, FileSink):
                for key in sink.file_keys():
                    other, owner = self._known.get(key, (sink, ""))
                    if not sink.has_same_settings(other):
                        display_path, other_path = display_text(sink.path), display_text(other.path)
                        return SinkConflict(display_path, sink.settings, other_path, other.settings, owner)
        return None

    def add(self, sinks: Iterable[Sink], owner: str = "") -> None:
        """Add the files of sinks; `owner` is named in conflicts."""
        for sink in sinks:
            if isinstance(sink, FileSink):
                for key in sink.file_keys():
                    self._known.setdefault(key, (sink, owner))
