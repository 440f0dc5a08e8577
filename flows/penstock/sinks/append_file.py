"""A file that is open for appending: locked, with a complete end, and extended by complete lines only."""

from __future__ import annotations

import copy
import gzip
import os
import stat
import threading
import zlib
from collections.abc import Sequence
from typing import Any

from penstock.errors import SinkAlreadyOpen, SinkLocked, SinkWriteFailed
from penstock.formats.csv_reader import RowSplitter, cell_reader
from penstock.formats.format import Format, is_compressed
from penstock.formats.writers import Writer, make_writer
from penstock.sinks.siblings import current_siblings
from penstock.sinks.torn_tail import (
    CHUNK,
    FileFingerprint,
    copy_permissions,
    is_complete_gzip,
    move_torn_tail,
    unused_torn_path,
)
from penstock.support.logger import get_logger

try:
    import fcntl
except ImportError:  # on Windows, where the user has to prevent two writers of one file
    fcntl = None  # type: ignore[assignment]  # no module there

log = get_logger()


class AppendFile:
    """An open file. Its calls block: make them in a thread, one at a time. They raise `SinkWriteFailed`.

    `display_path` is the path in errors, without the values of secret variables.
    """

    def __init__(self, path: str, format: Format, fields: Sequence[str] | None, display_path: str) -> None:
        self._path = path
        self._display_path = display_path
        self._format = format
        self._fields = fields
        self._settings = describe_settings(format, fields)
        self._descriptor = -1
        self._locked = False
        self._writer: Writer = make_writer(format, fields)
        self._compressor = zlib.compressobj(wbits=31) if is_compressed(path) else None
        self._member_open = False
        """Whether a compressed member was started and must be completed."""
        self._columns_known = False
        """Whether the columns are those of the file."""
        self._partial_start: int | None = None
        """The position of a partial write that could not be removed."""

    def open(self, closed: FileFingerprint | None = None) -> None:
        """Open the file. Move an incomplete end away, unless the file is unchanged since it was `closed`."""
        check_folder(self._path, self._display_path)
        try:
            self._open_exclusive()
            self._prepare(closed)
        except OSError as error:
            raise self._error(error) from error
        except zlib.error as error:
            raise SinkWriteFailed(
                self._display_path, "it is not a gzip file, or it is damaged; move it away"
            ) from error

    def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        """Append values. Return the errors of those that cannot be written. Writes nothing if it raises."""
        writer, compressor, member = copy.copy(self._writer), self._compressor, self._member_open
        try:
            data, errors = self._writer.write(values)
            if data and compressor is not None:
                data = self._compress(data)
            if data:
                self._append(data)
        except BaseException:
            self._writer, self._compressor, self._member_open = writer, compressor, member
            raise
        return errors

    def finish(self) -> FileFingerprint:
        """Complete the last member, sync the file to disk, and close it."""
        try:
            self._truncate_partial()
            if self._compressor is not None and self._member_open:
                self._append(self._compressor.flush())
            os.fsync(self._descriptor)
            return FileFingerprint.of(self._descriptor)
        except OSError as error:
            raise self._error(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._descriptor >= 0:
            with _LOCKING:
                if self._locked:
                    _LOCKED_HERE.pop(identity(self._descriptor), None)
                    self._locked = False
                os.close(self._descriptor)
                self._unlock()
            self._descriptor = -1

    def _prepare(self, closed: FileFingerprint | None) -> None:
        """Repair the end of the file, unless it is unchanged since it was `closed`, and read its columns."""
        if FileFingerprint.of(self._descriptor) != closed:
            self._repair()
        if self._format is Format.CSV:
            self._adopt_columns()

    def _compress(self, data: bytes) -> bytes:
        """Compress lines, and continue the open member, so that the file can be read up to them."""
        assert self._compressor is not None
        compressor = self._compressor = self._compressor.copy()
        self._member_open = True
        return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)

    def _append(self, data: bytes) -> None:
        """Write all data or none."""
        left = memoryview(data)
        try:
            self._truncate_partial()
            before = os.fstat(self._descriptor).st_size
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                self._partial_start = before
                self._truncate_partial()
                raise
        except OSError as error:
            raise self._error(error) from error

    def _truncate_partial(self) -> None:
        """Remove a partial write. If the system refuses that, nothing is written after it until it succeeds."""
        if self._partial_start is not None:
            os.ftruncate(self._descriptor, self._partial_start)
            self._partial_start = None

    def _error(self, error: OSError) -> SinkWriteFailed:
        return SinkWriteFailed(self._display_path, error.strerror or str(error))

    def _open_exclusive(self) -> None:
        self._open_file()
        with _LOCKING:
            own = identity(self._descriptor)
            if (other := _LOCKED_HERE.get(own)) is not None:  # some file systems let one process lock a file twice
                raise SinkAlreadyOpen(self._display_path, self._settings, *other)
            self._lock()
            self._locked = True
            _LOCKED_HERE[own] = self._display_path, self._settings

    def _open_file(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        self._descriptor = os.open(self._path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise SinkWriteFailed(self._display_path, "it is not a regular file; for pipes use StdoutSink()")

    def _lock(self) -> None:
        """Lock the open file for this process. Raises `SinkLocked`."""
        if fcntl is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SinkLocked(self._display_path) from None

    def _unlock(self) -> None:
        """Do nothing: closing the file has released its lock."""

    def _repair(self) -> None:
        """Move an incomplete end to PATH.torn, or the whole file if it is compressed."""
        if self._compressor is None:
            torn = move_torn_tail(self._path, self._descriptor, self._format, f"{self._path}.torn")
            if torn:
                self._log_moved(torn)
        elif not is_complete_gzip(self._path, self._format):
            self._start_new_file()

    def _log_moved(self, moved_bytes: int) -> None:
        moved_to = f"{self._display_path}.torn"
        log.warning("sink.torn_tail_moved", path=self._display_path, moved_bytes=moved_bytes, moved_to=moved_to)

    def _start_new_file(self) -> None:
        """Move the whole file away, because data appended to it could not be read, and create an empty one."""
        is_link = os.path.islink(self._path)
        path = os.path.realpath(self._path) if is_link else self._path  # a link stays a link
        torn_path = unused_torn_path(path)
        torn = os.fstat(self._descriptor).st_size
        os.rename(path, torn_path)
        self.close()
        self._open_exclusive()
        with open(path, "ab") as file:
            copy_permissions(torn_path, file)
        moved_to = (path if is_link else self._display_path) + torn_path.removeprefix(path)
        log.warning("sink.torn_tail_moved", path=self._display_path, moved_bytes=torn, moved_to=moved_to)

    def _adopt_columns(self) -> None:
        """Use the columns of the file, if it has any."""
        columns = self._columns()
        if columns is None:
            return
        if self._fields is not None and set(columns) != set(self._fields):
            raise SinkWriteFailed(
                self._display_path,
                f"its columns are {', '.join(columns)}, expected {', '.join(self._fields)}; name another file, or its "
                "columns",
            )
        self._writer = make_writer(self._format, columns, header=False)
        self._columns_known = True

    def _columns(self) -> list[str] | None:
        splitter = RowSplitter(limit=1024 * 1024)
        with gzip.open(self._path) if self._compressor is not None else open(self._path, "rb") as file:
            while chunk := file.read1(CHUNK):
                if rows := splitter.feed(chunk):
                    return _cells(self._display_path, rows[0].raw)
        return None


def check_folder(path: str, display_path: str) -> None:
    """Raise `SinkWriteFailed` if the folder of a file does not exist."""
    if not os.path.isdir(os.path.dirname(path) or "."):
        folder = os.path.dirname(display_path)
        subject = f"the folder {folder}" if folder else "its folder"
        raise SinkWriteFailed(display_path, f"{subject} does not exist; create it, or name another file")


def check_path(path: str, display_path: str) -> None:
    """Raise `SinkWriteFailed` if a file cannot be appended to or created, as far as can be known without doing so."""
    check_folder(path, display_path)
    try:
        status = os.stat(path)
    except OSError:  # it does not exist yet; neither does the target of a dangling link
        if not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
            raise SinkWriteFailed(display_path, "its folder is not writable") from None
        return
    if not stat.S_ISREG(status.st_mode):
        raise SinkWriteFailed(display_path, "it is not a regular file; for pipes use StdoutSink()")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SinkWriteFailed(display_path, "it is not readable and writable")


def check_unlocked(path: str, display_path: str) -> None:
    """Raise `SinkLocked` if another service has locked a file. Locks of this process and its siblings are ignored."""
    if fcntl is None:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # it does not exist or cannot be opened: the path check, or the first write, reports that
        return
    try:
        with _LOCKING:
            siblings = current_siblings()
            if identity(descriptor) not in _LOCKED_HERE and not (siblings and siblings.hold(descriptor)):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that checks do not block each other
    except BlockingIOError:
        raise SinkLocked(display_path) from None
    except OSError:  # a file system without locks
        pass
    finally:
        os.close(descriptor)


def identity(file: int | str) -> tuple[int, int]:
    """Return device and inode of a path or descriptor. Raises `OSError` if there is no file."""
    status = os.stat(file)
    return status.st_dev, status.st_ino


def describe_settings(format: Format, fields: Sequence[str] | None) -> str:
    """Describe the settings of a sink for messages."""
    return format.value if fields is None else f"{format.value} with the fields {', '.join(fields)}"


_LOCKED_HERE: dict[tuple[int, int], tuple[str, str]] = {}
"""The files locked by this process, by device and inode: their display paths and settings."""

_LOCKING = threading.Lock()
"""Held while `_LOCKED_HERE` changes, so that a lock of this process is not taken for that of another."""


def _cells(path: str, row: bytes) -> list[str]:
    try:
        return cell_reader()(row.decode())
    except ValueError as error:
        raise SinkWriteFailed(path, f"its first row is not a valid header: {error}") from error
