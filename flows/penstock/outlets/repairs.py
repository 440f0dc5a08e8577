"""What a process that was killed may leave behind in a file: half a line at its end, found and put aside."""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from penstock.csv_rows import RowSplitter
from penstock.formats import Format

CHUNK = 256 * 1024


class Ends:
    """Where whole values end in a stream of chunks."""

    def __init__(self, format: Format) -> None:
        self._rows = RowSplitter(limit=1) if format is Format.CSV else None
        self.whole = 0
        """Bytes up to the end of the last whole value."""
        self.total = 0

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        if self._rows is not None:
            self._rows.feed(chunk)
            self.whole = self._rows.ended
        elif (newline := chunk.rfind(b"\n")) >= 0:
            self.whole = self.total + newline + 1
        self.total += len(chunk)


def repair(path: str, descriptor: int, format: Format, aside: str) -> int:
    """Move what is behind the last whole value of a plain file to the file `aside`; returns how many bytes that was.

    It may be a whole line of somebody who ends none: that cannot be told from a line that was cut off.

    NDJSON is looked at from its end. CSV has to be looked at from its beginning: a newline at the end of the file may
    be one inside of quotes.
    """
    size = os.fstat(descriptor).st_size
    if format is Format.NDJSON:
        whole = _last_newline(descriptor, size)
    else:
        ends = Ends(format)
        while chunk := os.pread(descriptor, CHUNK, ends.total):
            ends.feed(chunk)
        whole = ends.whole
    if whole < size:
        with open(aside, "ab") as file:
            take_after(path, file)
            for start in range(whole, size, CHUNK):
                file.write(os.pread(descriptor, min(CHUNK, size - start), start))
            _end(file)
        os.ftruncate(descriptor, whole)
    return size - whole


def _end(file: BinaryIO) -> None:
    """End what was put aside with a newline, durably."""
    file.write(b"\n")
    file.flush()
    os.fsync(file.fileno())


def _last_newline(descriptor: int, size: int) -> int:
    """The position behind the last newline, 0 if there is none."""
    end = size
    while end:
        start = max(0, end - CHUNK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def repair_compressed(path: str, format: Format, aside: str) -> int:
    """Write a compressed file anew if its last part was cut off; returns how many bytes were put aside, decompressed.

    What is appended behind a part that has no end could never be read. So the file is read through, which takes as
    long as reading it takes, and rewritten, beside it and put in its place, only when it has no end. The new one has
    the rights of the old one, and its owner where that is allowed. Raises `zlib.error` for what is no gzip file or is
    damaged, and leaves it alone: what is behind the damage may be worth more than a new line.
    """
    path = os.path.realpath(path)  # a link to it stays a link
    ends = Ends(format)
    chunks = Decompressed(path)
    for chunk in chunks:
        ends.feed(chunk)
    if chunks.complete and ends.whole == ends.total:
        return 0
    repaired = f"{path}.repaired"
    left, torn = ends.whole, ends.total - ends.whole
    try:
        with open(repaired, "wb") as raw, open(aside if torn else os.devnull, "ab") as rest:
            take_after(path, raw)
            if torn:
                take_after(path, rest)
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="") as file:
                for chunk in Decompressed(path):
                    file.write(chunk[:left])
                    rest.write(chunk[left:])
                    left -= min(left, len(chunk))
            raw.flush()
            os.fsync(raw.fileno())
            if torn:
                _end(rest)
        os.replace(repaired, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(repaired)
        raise
    _keep_name(path)
    return torn


def take_after(path: str, file: BinaryIO) -> None:
    """Give a file that is still empty the rights of another one, and its owner where that is allowed."""
    if os.fstat(file.fileno()).st_size:
        return
    facts = os.stat(path)
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root gives files away; the group is another matter
            os.chown(file.fileno(), -1, facts.st_gid)
            os.chown(file.fileno(), facts.st_uid, -1)
    shutil.copystat(path, file.name)


def _keep_name(path: str) -> None:
    """Have it on the disk that a file is at its place; elsewhere than on POSIX there is no way to ask for it."""
    if os.name != "posix":
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Decompressed:
    """The chunks of a compressed file, as far as it goes; `complete` tells whether its last part has its end.

    `gzip` calls half a header damaged, as it does any other bytes; here only what can never become a gzip file is
    damaged, and raises `zlib.error`. Zeros behind a part are passed over, as the format has it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.complete = True

    def __iter__(self) -> Iterator[bytes]:
        part = None
        with open(self._path, "rb") as file:
            while data := file.read(CHUNK):
                while data:
                    if part is None and not (data := data.lstrip(b"\0")):
                        break
                    part = part or zlib.decompressobj(wbits=31)
                    if chunk := part.decompress(data, CHUNK):
                        yield chunk
                    data = part.unused_data if part.eof else part.unconsumed_tail
                    if part.eof:
                        part = None
        if part is not None and (rest := part.flush()):  # what had no room in the last chunk
            yield rest
        self.complete = part is None
