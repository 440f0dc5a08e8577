"""Files as sources: one element per line of NDJSON or row of CSV, read once from beginning to end."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike, fspath
from typing import Protocol, TypeAlias

from penstock.errors import FileReadFailed, FlowDefinitionError, describe
from penstock.formats.csv_reader import CsvSplitter
from penstock.formats.format import Format, check_delimiter, format_of, is_compressed
from penstock.formats.ndjson_reader import LINE_LIMIT, LineSplitter, Splitter
from penstock.sources.source import Emitter, Source
from penstock.support.environment import substitute
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.used_files import UsedFile

CHUNK = 64 * 1024
"""Bytes read at a time."""

OpenFile: TypeAlias = gzip.GzipFile | BufferedReader


@dataclass(unsafe_hash=True)
class File(Source[bytes]):
    """The lines of one file. Each run opens it again, and reads at most one chunk ahead."""

    name = "file"

    path: str
    format: Format
    limit: int = LINE_LIMIT
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, emitter: Emitter[bytes]) -> None:
        splitter = make_splitter(self.format, self.limit, self.delimiter)
        await emit_lines(emitter, FileLineReader(substitute(self.path), splitter, display_path=self.path))

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile(f"the source {self.path}", substitute(self.path)),)


class FileLineReader:
    """Reads the lines of a file once. Its calls block: make them in a thread, one at a time.

    `display_path` is the path in errors: before variables are substituted, because their values may be secret.
    """

    def __init__(self, path: str, splitter: Splitter, *, display_path: str | None = None) -> None:
        self.path = path
        self._display_path = path if display_path is None else display_path
        self._splitter = splitter
        self._file: OpenFile | None = None
        self.at_end = False
        """Whether the end of the file was reached: the last result of `next` is a line without a line break."""
        self.position = 0
        """Bytes of the file read so far, compressed if the file is."""

    def next(self) -> list[bytes] | None:
        """Return the lines of the next chunk, maybe none; None at the end. Raises `FileReadFailed`."""
        if self.at_end:
            return None
        try:
            if self._file is None:
                self._file = self._open()
            chunk = self._file.read1(CHUNK)
            self.position = os.lseek(self._file.fileno(), 0, os.SEEK_CUR)
            self.at_end = not chunk
            return self._splitter.feed(chunk) if chunk else self._splitter.finish()
        except FileReadFailed:
            raise
        except FileNotFoundError:
            raise FileReadFailed(self._display_path, "the file does not exist") from None
        except EOFError as error:
            raise FileReadFailed(
                self._display_path, "its compressed data end too early; the file was cut off"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise FileReadFailed(self._display_path, f"its compressed data are damaged: {error}") from error
        except OSError as error:
            raise FileReadFailed(self._display_path, error.strerror or str(error)) from error
        except Exception as error:  # any error of one file is reported for that file
            raise FileReadFailed(self._display_path, describe(error)) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> OpenFile:
        """Open the file for reading, decompressed if its name ends in `.gz`."""
        path = self.path
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe blocks until it has a writer, uncancellably
            advice = f"for pipes use standard input: from_stdin() with < {self._display_path}"
            raise FileReadFailed(self._display_path, f"it is not a regular file; {advice}")
        return gzip.open(path) if is_compressed(path) else open(path, "rb")


def make_splitter(format: Format, limit: int = LINE_LIMIT, delimiter: str = ",") -> Splitter:
    """Create the splitter for the chunks of a file."""
    return CsvSplitter(limit, delimiter) if format is Format.CSV else LineSplitter(limit)


class Lines(Protocol):
    """Lines that are read by blocking calls."""

    def next(self) -> list[bytes] | None: ...

    def close(self) -> None: ...


async def emit_lines(emitter: Emitter[bytes], lines: Lines) -> None:
    """Emit all lines of a file, and close it however that ends."""
    try:
        while True:
            await emitter.wait_for_capacity()
            new_lines = await to_thread_uncancellable(lines.next)
            if new_lines is None:
                return
            if new_lines:
                await emitter.send(new_lines, list(map(len, new_lines)))
    finally:
        await to_thread_uncancellable(lines.close)


def from_file(
    path: str | PathLike[str],
    *,
    format: Format | str | None = None,
    limit: int = LINE_LIMIT,
    delimiter: str = ",",
) -> Source[bytes]:
    """Make a source of the lines of a file: `.ndjson`, `.jsonl` or `.csv`, each also with `.gz`.

    `format` is `ndjson` or `csv`, for other file names. `limit` is the maximum of bytes in a line or a row.

    In CSV the first row names the fields, `delimiter` separates the cells, and each further row becomes an object whose
    values are texts. A row that does not match the header becomes a failed element that keeps its text. A missing file,
    or damaged compression, fails the source after the data that could be read.
    """
    path = fspath(path)
    resolved = format_of(path, format)
    check_reading(resolved, limit, delimiter)
    return File(path, resolved, limit, delimiter)


def check_reading(format: Format | None, limit: int, delimiter: str) -> None:
    """Raise `ValueError` or `FlowDefinitionError` for invalid arguments."""
    if limit < 1:
        raise ValueError(f"limit: expected at least 1 byte for a line, got {limit!r}")
    check_delimiter(delimiter)
    if format is Format.NDJSON and delimiter != ",":
        raise FlowDefinitionError(
            f"delimiter: expected only with CSV, got {delimiter!r} for NDJSON; set the format to csv if it is CSV"
        )
