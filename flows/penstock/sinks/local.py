"""Files of sinks: the base of sinks that write to this machine, checks before a run, and two sinks of one file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress

from penstock.errors import MissingVariable, SinkConflict
from penstock.sinks.append_file import identity
from penstock.sinks.sink import Sink
from penstock.support.environment import display_text
from penstock.support.used_files import UsedFile


class LocalSink(ABC):
    """Base of sinks that write to files or to standard output: they say which, before anything is opened.

    A subclass also has the methods of `Sink`. Two sinks that name one file must have the same settings: by default,
    they must be equal (`==`).
    """

    name: str

    @abstractmethod
    def used_files(self) -> Iterable[UsedFile]:
        """Return the files, or the descriptor of standard output. Raises `MissingVariable`."""

    def check(self, *, locks: bool) -> None:  # noqa: B027 - for sinks that can tell
        """Raise `SinkWriteFailed` if a file cannot be written; with `locks`, also if another process writes to it."""

    @property
    def settings(self) -> str:
        """How values are written, for messages."""
        return type(self).__name__

    def has_same_settings(self, other: LocalSink) -> bool:
        """Return whether both write in the same way, so that they may name one file."""
        return self == other


def files_written(sinks: Iterable[Sink]) -> Iterator[UsedFile]:
    """Yield the files that sinks write to. Raises `MissingVariable`."""
    for sink in sinks:
        if isinstance(sink, LocalSink):
            yield from sink.used_files()


def check_sinks(sinks: Iterable[Sink], *, locks: bool) -> None:
    """Raise `SinkWriteFailed` for the first file that cannot be written, before anything runs.

    Raises `SinkConflict` for a file that two sinks name with different settings.
    """
    files = SinkFiles()
    for sink in sinks:
        if isinstance(sink, LocalSink):
            sink.check(locks=locks)
            if (conflict := files.find_conflict([sink])) is not None:
                raise conflict
            files.add([sink])


def can_share(sink: Sink, other: Sink) -> bool:
    """Return whether two sinks name one file and may share it."""
    return (
        isinstance(sink, LocalSink)
        and isinstance(other, LocalSink)
        and sink.has_same_settings(other)
        and not set(file_keys(sink)).isdisjoint(file_keys(other))
    )


def file_keys(sink: LocalSink) -> list[Hashable]:
    """Return keys of the files of a sink: each path without links, and device and inode if the file exists.

    Two sinks name one file if they have one of these in common.
    """
    keys: list[Hashable] = []
    with suppress(MissingVariable):
        for used in sink.used_files():
            if not isinstance(used.file, int):
                keys.append(os.path.realpath(used.file))
                with suppress(OSError):
                    keys.append(identity(used.file))
    return keys


class SinkFiles:
    """The files that sinks name, with their settings: sinks of one file must have the same."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[LocalSink, str]] = {}

    def find_conflict(self, sinks: Iterable[Sink]) -> SinkConflict | None:
        """Return the first conflict of these sinks with known ones: the same file with other settings."""
        for sink in sinks:
            if isinstance(sink, LocalSink):
                for key in file_keys(sink):
                    other, owner = self._known.get(key, (sink, ""))
                    if not sink.has_same_settings(other):
                        return SinkConflict(_target(sink), sink.settings, _target(other), other.settings, owner)
        return None

    def add(self, sinks: Iterable[Sink], owner: str = "") -> None:
        """Add the files of sinks; `owner` is named in conflicts."""
        for sink in sinks:
            if isinstance(sink, LocalSink):
                for key in file_keys(sink):
                    self._known.setdefault(key, (sink, owner))


def _target(sink: LocalSink) -> str:
    """Return the path of a sink for messages, or else the description of its first file."""
    path = getattr(sink, "path", None)
    return display_text(str(path)) if path else next(iter(sink.used_files())).description
