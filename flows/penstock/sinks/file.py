"""An outlet that appends values to a file, as NDJSON or CSV, compressed or not."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike, fspath
from typing import Any

from penstock.errors import MissingVariable, OutletTwice, SinkWriteFailed
from penstock.formats.format import Format, format_of
from penstock.formats.writers import check_fields
from penstock.sinks.append_file import AppendFile, FileFingerprint, check_path, check_unlocked, identity, settings_said
from penstock.sinks.sink import Sink
from penstock.support.environment import shown, substitute
from penstock.support.tasks import to_thread_uncancellable


@dataclass(unsafe_hash=True, init=False)
class FileSink:
    """Appends values to a file: `.ndjson`, `.jsonl` or `.csv`, each also with `.gz`; `format` says what no name tells.

    Each write appends whole lines, in one piece; a write that fails, such as on a full disk, leaves none of its lines.
    Closing waits until the disk has them. Half a line that a killed process left at the end is moved to FILE.torn when
    the file is opened (`sink.torn_tail_moved`), so that no new line is glued to it. A file has one writer at a time: it
    is locked. While another process holds the lock, elements wait (`sink.waiting`), for a minute at most; then the run
    fails. Outlets of one process that lead to one file, under whatever names, share it if they have the same settings;
    otherwise the run of the second one fails.

    A CSV file has a header, written when it is new or empty. Its columns are those that the file has, or `fields`, or
    else the fields of the first value; a value with other fields fails alone. What is no text is written as JSON. NaN
    and the infinities are no JSON: a value with one of them fails alone, in either format.

    Each time a compressed file is opened, a new member is appended. It can be read up to the last write at any time.
    A compressed file, and a CSV file, that another process closed is read when it is opened, to check that its end is
    complete. A compressed file whose last member was cut off is moved to FILE.torn as a whole, and a new file is
    started; a file that is damaged, or not a gzip file, is refused and left as it is.
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
        path, said = substitute(self.path), shown(self.path)
        check_path(path, said)
        if locks:
            check_unlocked(path, said)

    @property
    def settings(self) -> str:
        """Its settings, for messages."""
        return settings_said(self.format, self.fields)

    def sites(self) -> list[Hashable]:
        """What its file is known by: the path without links, and device and inode if it is there.

        Two outlets lead to one file if they have one of these in common.
        """
        try:
            path = os.path.realpath(substitute(self.path))
        except MissingVariable:
            return []
        try:
            return [path, identity(path)]
        except OSError:
            return [path]

    def fits(self, other: FileSink) -> bool:
        """Whether both have the same settings."""
        return (self.format, self.fields) == (other.format, other.fields)

    def shares(self, other: FileSink) -> bool:
        """Whether both lead to one file and may share it."""
        return self.fits(other) and not set(self.sites()).isdisjoint(other.sites())

    async def open(self) -> None:
        """Open the file, making it if there is none. Raises `SinkWriteFailed`."""
        file = AppendFile(substitute(self.path), self.format, self.fields, shown(self.path))
        try:
            await to_thread_uncancellable(partial(file.open, self._closed))
        except BaseException:
            await to_thread_uncancellable(file.close)
            raise
        self._file = file

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Append values; returns for each that cannot be written why. Raises `SinkWriteFailed`, and then wrote none."""
        if self._file is None:
            raise SinkWriteFailed(self.path, "it is not open")
        return await to_thread_uncancellable(partial(self._file.write, values))

    async def aclose(self) -> None:
        """Wait until the disk has everything, and close the file. Raises `SinkWriteFailed`."""
        file, self._file = self._file, None
        if file is not None:
            self._closed = None
            self._closed = await to_thread_uncancellable(file.finish)


def check_outlets(outlets: Iterable[Sink], *, locks: bool) -> None:
    """Raise `SinkWriteFailed` for the first file that cannot be written, before anything runs.

    So is a file that two of them lead to with different settings (`OutletTwice`).
    """
    sharing = Sharing()
    for outlet in outlets:
        if isinstance(outlet, FileSink):
            outlet.check(locks=locks)
            if (clash := sharing.clash([outlet])) is not None:
                raise clash
            sharing.add([outlet])


class Sharing:
    """The files that outlets lead to, and with which settings: those of one file have to have the same."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[FileSink, str]] = {}

    def clash(self, outlets: Iterable[Sink]) -> OutletTwice | None:
        """The first file of these outlets that is known with other settings."""
        for outlet in outlets:
            if isinstance(outlet, FileSink):
                for site in outlet.sites():
                    other, owner = self._known.get(site, (outlet, ""))
                    if not outlet.fits(other):
                        said, others = shown(outlet.path), shown(other.path)
                        return OutletTwice(said, outlet.settings, others, other.settings, owner)
        return None

    def add(self, outlets: Iterable[Sink], owner: str = "") -> None:
        """Take note of the files of these outlets, and whose they are."""
        for outlet in outlets:
            if isinstance(outlet, FileSink):
                for site in outlet.sites():
                    self._known.setdefault(site, (outlet, owner))
