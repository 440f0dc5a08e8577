"""Find an incomplete end that a killed process left in a file, and move it away."""

from __future__ import annotations

import os
import shutil
import zlib
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from penstock.formats.csv_reader import RowSplitter
from penstock.formats.format import Format

CHUNK = 256 * 1024


class FileFingerprint(NamedTuple):
    """The identity of a file when it was closed. If it is the same at the next open, its end need not be checked."""

    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, descriptor: int) -> FileFingerprint:
        status = os.fstat(descriptor)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class TailScanner:
    """Finds the end of the last complete value in a stream of chunks."""

    def __init__(self, format: Format) -> None:
        self._rows = RowSplitter(limit=1) if format is Format.CSV else None
        self.complete = 0
        """Bytes up to the end of the last complete value."""
        self.total = 0

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        if self._rows is not None:
            self._rows.feed(chunk)
            self.complete = self._rows.ended
        elif (newline := chunk.rfind(b"\n")) >= 0:
            self.complete = self.total + newline + 1
        self.total += len(chunk)


def move_torn_tail(path: str, descriptor: int, format: Format, torn_path: str) -> int:
    """Move everything after the last complete value of an uncompressed file to `torn_path`; return its size in bytes.

    The last line may be complete and only lack its newline: that cannot be distinguished from a line that was cut off.

    NDJSON is searched from its end. CSV has to be read from its beginning: a newline at the end of the file may be
    inside quotes.
    """
    size = os.fstat(descriptor).st_size
    if format is Format.NDJSON:
        complete = _last_newline(descriptor, size)
    else:
        scanner = TailScanner(format)
        while chunk := os.pread(descriptor, CHUNK, scanner.total):
            scanner.feed(chunk)
        complete = scanner.complete
    if complete < size:
        move_tail(path, descriptor, complete, torn_path)
    return size - complete


def move_tail(path: str, descriptor: int, start: int, torn_path: str) -> None:
    """Move everything from a position on to `torn_path`."""
    size = os.fstat(descriptor).st_size
    with open(torn_path, "ab") as file:
        if not os.fstat(file.fileno()).st_size:
            copy_permissions(path, file)
        for chunk in range(start, size, CHUNK):
            file.write(os.pread(descriptor, min(CHUNK, size - chunk), chunk))
        file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.ftruncate(descriptor, start)


def _last_newline(descriptor: int, size: int) -> int:
    """Return the position after the last newline, 0 if there is none."""
    end = size
    while end:
        start = max(0, end - CHUNK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def is_complete_gzip(path: str, format: Format) -> bool:
    """Read a gzip file; return whether its last member and its last value are complete.

    Raises `zlib.error` if the file is damaged, or not a gzip file. Python's `gzip` module raises the same error for a
    damaged header and for the first byte of a header that was cut off, so the members are read here. Zero bytes after
    a member are padding.
    """
    scanner = TailScanner(format)
    member = None
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            while data:
                if member is None and not (data := data.lstrip(b"\0")):
                    break
                member = member or zlib.decompressobj(wbits=31)
                if chunk := member.decompress(data, CHUNK):
                    scanner.feed(chunk)
                data = member.unused_data if member.eof else member.unconsumed_tail
                if member.eof:
                    member = None
    return member is None and scanner.complete == scanner.total


def unused_torn_path(path: str) -> str:
    """Return PATH.torn, or PATH.torn-2 and so on if that file exists."""
    torn_path, number = f"{path}.torn", 1
    while os.path.lexists(torn_path):
        number += 1
        torn_path = f"{path}.torn-{number}"
    return torn_path


def copy_permissions(path: str, file: BinaryIO) -> None:
    """Give a file the permissions of the file at `path`, and its owner and group where the system allows it."""
    status = os.stat(path)
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may change the owner; the group is changed separately
            os.chown(file.fileno(), -1, status.st_gid)
            os.chown(file.fileno(), status.st_uid, -1)
    shutil.copystat(path, file.name)
