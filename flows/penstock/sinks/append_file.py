"""A file that is open for appending: locked, whole at its end, and given whole lines only."""

from __future__ import annotations

import copy
import gzip
import os
import stat
import threading
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock.errors import OutletLocked, OutletTaken, SinkWriteFailed
from penstock.formats.csv_reader import RowSplitter, cell_reader
from penstock.formats.format import Format, is_compressed
from penstock.formats.writers import Writer, make_writer
from penstock.sinks.torn_tail import CHUNK, copy_permissions, is_complete_gzip, move_torn_tail, unused_torn_path
from penstock.support.logger import get_logger

try:
    import fcntl
except ImportError:  # on Windows, where whoever starts two writers of one file has to keep them apart
    fcntl = None  # type: ignore[assignment]  # no module there

log = get_logger()


class FileFingerprint(NamedTuple):
    """A file as it was closed; the same when it is opened again, its end need not be looked at."""

    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, descriptor: int) -> FileFingerprint:
        facts = os.fstat(descriptor)
        return cls(facts.st_ino, facts.st_size, facts.st_mtime_ns)


class AppendFile:
    """Blocking calls, to be made in a thread, one at a time. What the system refuses them they raise as
    `SinkWriteFailed`.

    `said` is what errors call the file: its path, without the values of variables that are secret.
    """

    def __init__(self, path: str, format: Format, fields: Sequence[str] | None, said: str) -> None:
        self._path = path
        self._said = said
        self._format = format
        self._fields = fields
        self._settings = settings_said(format, fields)
        self._descriptor = -1
        self._locked = False
        self._writer: Writer = make_writer(format, fields)
        self._compressor = zlib.compressobj(wbits=31) if is_compressed(path) else None
        self._member = False
        """True when a compressed member has begun, which has to be ended."""
        self._whole: int | None = None
        """Where half a write begins that could not be taken back."""

    def open(self, closed: FileFingerprint | None = None) -> None:
        """Open the file, and see to it that its end is whole, unless it is as it was `closed`."""
        check_folder(self._path, self._said)
        try:
            self._open_exclusive()
            if FileFingerprint.of(self._descriptor) != closed:
                self._repair()
            if self._format is Format.CSV:
                self._adopt_columns()
        except OSError as error:
            raise self._error(error) from error
        except zlib.error as error:
            raise SinkWriteFailed(self._said, "it is no gzip file, or damaged; move it away") from error

    def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Append values; returns for each that cannot be written why. When it raises, nothing was written."""
        writer, compressor, member = copy.copy(self._writer), self._compressor, self._member
        try:
            data, refusals = self._writer.write(values)
            if data and compressor is not None:
                self._compressor = compressor.copy()
                data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
                self._member = True
            if data:
                self._append(data)
        except BaseException:
            self._writer, self._compressor, self._member = writer, compressor, member
            raise
        return refusals

    def finish(self) -> FileFingerprint:
        """End what was begun, have all of it on the disk, and close."""
        try:
            self._truncate_partial()
            if self._compressor is not None and self._member:
                self._append(self._compressor.flush())
            os.fsync(self._descriptor)
            return FileFingerprint.of(self._descriptor)
        except OSError as error:
            raise self._error(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            with _LOCKING:
                if self._locked:
                    _LOCKED_HERE.pop(identity(self._descriptor), None)
                    self._locked = False
                os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, data: bytes) -> None:
        """Write all of it, or none."""
        left = memoryview(data)
        try:
            self._truncate_partial()
            before = os.fstat(self._descriptor).st_size
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                self._whole = before
                self._truncate_partial()
                raise
        except OSError as error:
            raise self._error(error) from error

    def _truncate_partial(self) -> None:
        """Cut off half a write. If the system refuses that too, nothing is written behind it before it allows it."""
        if self._whole is not None:
            os.ftruncate(self._descriptor, self._whole)
            self._whole = None

    def _error(self, error: OSError) -> SinkWriteFailed:
        return SinkWriteFailed(self._said, error.strerror or str(error))

    def _open_exclusive(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        self._descriptor = os.open(self._path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise SinkWriteFailed(self._said, "it is no regular file; for pipes use StandardOutput()")
        with _LOCKING:
            own = identity(self._descriptor)
            if (other := _LOCKED_HERE.get(own)) is not None:  # some file systems let a process lock a file twice
                raise OutletTaken(self._said, self._settings, *other)
            if fcntl is not None:
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise OutletLocked(self._said) from None
            self._locked = True
            _LOCKED_HERE[own] = self._said, self._settings

    def _repair(self) -> None:
        """Move an incomplete end, or a compressed file that has one, to PATH.torn."""
        if self._compressor is None:
            torn = move_torn_tail(self._path, self._descriptor, self._format, f"{self._path}.torn")
            if torn:
                log.warning("sink.torn_tail_moved", path=self._said, moved_bytes=torn, moved_to=f"{self._said}.torn")
        elif not is_complete_gzip(self._path, self._format):
            self._start_anew()

    def _start_anew(self) -> None:
        """Move the whole file aside, because nothing that is appended to it could be read, and create an empty one."""
        is_link = os.path.islink(self._path)
        path = os.path.realpath(self._path) if is_link else self._path  # a link stays a link
        torn_path = unused_torn_path(path)
        torn = os.fstat(self._descriptor).st_size
        os.rename(path, torn_path)
        self.close()
        self._open_exclusive()
        with open(path, "ab") as file:
            copy_permissions(torn_path, file)
        moved_to = (path if is_link else self._said) + torn_path.removeprefix(path)
        log.warning("sink.torn_tail_moved", path=self._said, moved_bytes=torn, moved_to=moved_to)

    def _adopt_columns(self) -> None:
        """Write to the columns that the file has, if it has some."""
        columns = self._columns()
        if columns is None:
            return
        if self._fields is not None and set(columns) != set(self._fields):
            there, wanted = ", ".join(columns), ", ".join(self._fields)
            raise SinkWriteFailed(
                self._said, f"its columns are {there}, not {wanted}; name another file, or its columns"
            )
        self._writer = make_writer(self._format, columns, header=False)

    def _columns(self) -> list[str] | None:
        splitter = RowSplitter(limit=1024 * 1024)
        with gzip.open(self._path) if self._compressor is not None else open(self._path, "rb") as file:
            while chunk := file.read1(CHUNK):
                if rows := splitter.feed(chunk):
                    return _cells(self._said, rows[0].raw)
        return None


def check_folder(path: str, said: str) -> None:
    """Raise `SinkWriteFailed` if the folder of a file is not there."""
    if not os.path.isdir(os.path.dirname(path) or "."):
        folder = os.path.dirname(said) or "for it"
        raise SinkWriteFailed(said, f"there is no folder {folder}; make it, or name another")


def check_path(path: str, said: str) -> None:
    """Raise `SinkWriteFailed` if a file cannot be appended to, or made, as far as that is known without doing it."""
    check_folder(path, said)
    try:
        facts = os.stat(path)
    except OSError:  # it is not there yet; a link to nothing counts as that
        if not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
            raise SinkWriteFailed(said, "its folder is not writable") from None
        return
    if not stat.S_ISREG(facts.st_mode):
        raise SinkWriteFailed(said, "it is no regular file; for pipes use StandardOutput()")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SinkWriteFailed(said, "it is not readable and writable")


def check_unlocked(path: str, said: str) -> None:
    """Raise `OutletLocked` if another process writes to a file. Files that this process writes to are fine."""
    if fcntl is None:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # it is not there, or cannot be opened: the check of the path, or the first write, tells
        return
    try:
        with _LOCKING:
            if identity(descriptor) not in _LOCKED_HERE:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two checks do not disturb each other
    except BlockingIOError:
        raise OutletLocked(said) from None
    except OSError:  # a file system without locks
        pass
    finally:
        os.close(descriptor)


def identity(place: int | str) -> tuple[int, int]:
    """What the system knows a file by, whatever its name. Raises `OSError` if there is none."""
    facts = os.stat(place)
    return facts.st_dev, facts.st_ino


def settings_said(format: Format, fields: Sequence[str] | None) -> str:
    """The settings of an outlet, for messages."""
    return format.value if fields is None else f"{format.value} with the fields {', '.join(fields)}"


_LOCKED_HERE: dict[tuple[int, int], tuple[str, str]] = {}
"""The files that this process holds locks of, by device and inode: what they are called, and how they are written."""

_LOCKING = threading.Lock()
"""Held while one of them comes or goes, so that no lock of this process is taken for that of another."""


def _cells(path: str, row: bytes) -> list[str]:
    try:
        return cell_reader()(row.decode())
    except ValueError as error:
        raise SinkWriteFailed(path, f"its first row names no columns: {error}") from error
