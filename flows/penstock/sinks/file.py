"""FileSink: appends values to a file as NDJSON or CSV, compressed or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike, fspath
from typing import Any

from penstock.errors import SinkWriteFailed
from penstock.formats.format import Format, format_of
from penstock.formats.writers import check_fields
from penstock.sinks.append_file import AppendFile, check_path, check_unlocked, describe_settings
from penstock.sinks.local import LocalSink
from penstock.sinks.sibling_append_file import SiblingAppendFile
from penstock.sinks.siblings import current_siblings
from penstock.sinks.torn_tail import FileFingerprint
from penstock.support.environment import display_text, substitute
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.used_files import UsedFile


@dataclass(unsafe_hash=True, init=False)
class FileSink(LocalSink):
    """Appends values to a file: `.ndjson`, `.jsonl` or `.csv`, each also with `.gz`; `format` is for other names.

    Each write appends complete lines at once. A failed write, for example on a full disk, leaves none of its lines.
    Closing syncs the file to disk. An incomplete line that a killed process left at the end is moved to FILE.torn when
    the file is opened (`sink.torn_tail_moved`), so that no new line is appended to it. A file has one writer at a time:
    it is locked. The processes of one service share the lock and write in turns; what one of them that was killed left
    of a write is moved to FILE.torn as a whole before the next write, and each write to a compressed file is a member
    of its own. While another process holds the lock, elements wait (`sink.waiting`), at most a minute; then the run
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

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile(f"the sink {self.path} of a step", substitute(self.path)),)

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

    def has_same_settings(self, other: LocalSink) -> bool:
        """Return whether both have the same settings; their paths may differ."""
        return isinstance(other, FileSink) and (self.format, self.fields) == (other.format, other.fields)

    async def open(self) -> None:
        """Open the file, creating it if it does not exist. Raises `SinkWriteFailed`."""
        path, display_path, siblings = substitute(self.path), display_text(self.path), current_siblings()
        if siblings is None:
            file = AppendFile(path, self.format, self.fields, display_path)
        else:
            file = SiblingAppendFile(path, self.format, self.fields, display_path, siblings)
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
