"""A file that several processes of one service append to at the same time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

from penstock.errors import SinkWriteFailed
from penstock.formats.format import Format
from penstock.sinks.append_file import AppendFile, identity
from penstock.sinks.siblings import UNKNOWN, SiblingFile, Siblings
from penstock.sinks.torn_tail import FileFingerprint, move_tail


class SiblingAppendFile(AppendFile):
    """A file that is open in this process, and may be open in its siblings. They write in turns.

    All processes use one open file, which the parent has locked against other services. The size after the last
    complete write is in shared memory: if the file is larger, a process was killed while it wrote, or a failed write
    could not be undone. The next writer moves that end away. Each write to a compressed file is a complete member.
    """

    def __init__(
        self, path: str, format: Format, fields: Sequence[str] | None, display_path: str, siblings: Siblings
    ) -> None:
        super().__init__(path, format, fields, display_path)
        self._siblings = siblings
        self._file: SiblingFile | None = None

    def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        file = self._opened()
        with file.lock():
            try:
                self._follow_siblings(file)
            except OSError as error:
                raise self._error(error) from error
            try:
                errors = super().write(values)
            except BaseException:
                self._partial_start = None  # the next writer removes what is left, whichever process that is
                raise
            file.size = os.fstat(self._descriptor).st_size
        return errors

    def _prepare(self, closed: FileFingerprint | None) -> None:  # noqa: ARG002 - of the base
        """Check the end of the file under its lock, if no sibling has it open.

        What this process saw when it closed the file does not matter: a sibling may have been writing to it.
        """
        prepared: SiblingFile | None = None
        while prepared is not self._file:
            prepared = file = self._opened()
            with file.lock():
                if not self._is_at_path():  # a sibling has just moved it away
                    self.close()
                    self._open_exclusive()
                    continue
                if file.size == UNKNOWN:
                    super()._prepare(file.closed)
                else:
                    self._follow_siblings(file)
                if self._file is file:
                    file.size = os.fstat(self._descriptor).st_size

    def _follow_siblings(self, file: SiblingFile) -> None:
        """Move away what a sibling that was killed has left, and use the columns that another one has written."""
        size = os.fstat(self._descriptor).st_size
        if size > file.size:
            move_tail(self._path, self._descriptor, file.size, f"{self._path}.torn")
            self._log_moved(size - file.size)
        elif size < file.size:  # another program has truncated it
            if self._compressor is None:
                self._repair()
            file.size = os.fstat(self._descriptor).st_size
        if self._format is Format.CSV and not self._columns_known:
            self._adopt_columns()

    def _compress(self, data: bytes) -> bytes:
        """Compress lines to a complete member: the next one may be that of a sibling."""
        compressor = zlib.compressobj(wbits=31)
        return compressor.compress(data) + compressor.flush()

    def _lock(self) -> None:
        self._file = self._siblings.acquire(self._descriptor, self._display_path, self._settings)
        os.close(self._descriptor)
        self._descriptor = self._file.descriptor

    def _unlock(self) -> None:
        if self._file is not None:
            self._file.release()
            self._file = None

    def _is_at_path(self) -> bool:
        try:
            return identity(self._path) == identity(self._descriptor)
        except OSError:
            return False

    def _opened(self) -> SiblingFile:
        if self._file is None:
            raise SinkWriteFailed(self._display_path, "it is not open")
        return self._file
