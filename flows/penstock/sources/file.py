"""Files as sources: a line of NDJSON or a row of CSV an element, read once from the beginning to the end."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
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

CHUNK = 64 * 1024
"""Bytes read at a time."""

OpenFile: TypeAlias = gzip.GzipFile | BufferedReader


@dataclass(unsafe_hash=True)
class File(Source[bytes]):
    """The lines of one file. Each run opens it anew, and reads one chunk ahead at most."""

    name = "file"

    path: str
    format: Format
    limit: int = LINE_LIMIT
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Emitter[bytes]) -> None:
        splitter = make_splitter(self.format, self.limit, self.delimiter)
        await emit_lines(intake, FileLineReader(substitute(self.path), splitter, said=self.path))


class FileLineReader:
    """One pass over a file, in blocking calls: to be made in a thread, one at a time.

    `said` is what errors call the file: the path as it was written, so that they tell no variable of the environment.
    """

    def __init__(self, path: str, splitter: Splitter, *, said: str | None = None) -> None:
        self.path = path
        self._said = path if said is None else said
        self._splitter = splitter
        self._file: OpenFile | None = None
        self.at_end = False
        """Whether the end of the file was reached: what `next` returned last is then a line without a line break."""
        self.position = 0
        """Bytes of the file that were read so far, as they lie there: compressed, if they are."""

    def next(self) -> list[bytes] | None:
        """The lines of the next chunk, which may be none; None at the end. Raises `FileReadFailed`."""
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
            raise FileReadFailed(self._said, "there is no such file") from None
        except EOFError as error:
            raise FileReadFailed(self._said, "its compressed data end too early; the file was cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise FileReadFailed(self._said, f"its compressed data are damaged: {error}") from error
        except OSError as error:
            raise FileReadFailed(self._said, error.strerror or str(error)) from error
        except Exception as error:  # whatever is wrong with one file is said of that file
            raise FileReadFailed(self._said, describe(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> OpenFile:
        """The file, opened for reading, and decompressed if its name ends in `.gz`."""
        path = self.path
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe waits for its writer, and no cancel ends that
            way_out = f"for pipes use standard input: from_stdin() with < {self._said}"
            raise FileReadFailed(self._said, f"it is no regular file; {way_out}")
        return gzip.open(path) if is_compressed(path) else open(path, "rb")


def make_splitter(format: Format, limit: int = LINE_LIMIT, delimiter: str = ",") -> Splitter:
    """What makes lines of the chunks of a file."""
    return CsvSplitter(limit, delimiter) if format is Format.CSV else LineSplitter(limit)


class Lines(Protocol):
    """Lines that are read in blocking calls."""

    def next(self) -> list[bytes] | None: ...

    def close(self) -> None: ...


async def emit_lines(intake: Emitter[bytes], lines: Lines) -> None:
    """Give out all lines of a file, and close it however that ends."""
    try:
        while True:
            await intake.wait_for_capacity()
            found = await to_thread_uncancellable(lines.next)
            if found is None:
                return
            if found:
                await intake.send(found, list(map(len, found)))
    finally:
        await to_thread_uncancellable(lines.close)


def from_file(
    path: str | PathLike[str],
    *,
    format: Format | str | None = None,
    limit: int = LINE_LIMIT,
    delimiter: str = ",",
) -> Source[bytes]:
    """A source of the lines of a file: `.ndjson`, `.jsonl` or `.csv`, each also with `.gz`.

    `format` says what the name does not: `ndjson` or `csv`. `limit` is the bytes that a line or a row may have.

    In CSV the first row names the fields, `delimiter` parts the cells, and each further row is an object whose values
    are texts. A row that does not fit fails in the flow, with its text kept. A file that is missing, or whose
    compression is damaged, breaks the source after what could be read.
    """
    where = fspath(path)
    found = format_of(where, format)
    check_reading(found, limit, delimiter)
    return File(where, found, limit, delimiter)


def check_reading(format: Format | None, limit: int, delimiter: str) -> None:
    """Raise for arguments that cannot be meant."""
    if limit < 1:
        raise ValueError(f"a line needs at least 1 byte, got limit {limit!r}")
    check_delimiter(delimiter)
    if format is Format.NDJSON and delimiter != ",":
        raise FlowDefinitionError(
            f"a delimiter is for CSV, got {delimiter!r} for NDJSON; say the format csv if it is CSV"
        )
