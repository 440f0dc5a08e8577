"""Where flow files are: files that are named, and directories, in which they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from penstock.flowfile.discovery import candidates

FileStamps: TypeAlias = "dict[Path, tuple[int, int, int] | None]"
"""When files were changed last, how large they are, and which they are; None for one that is not there."""


class WatchedFiles:
    """Files, and directories whose files are taken when they are flow files; `*.test.*` in them are not.

    `holds_flow` tells a flow file from another one that happens to lie beside it.
    """

    def __init__(self, paths: Iterable[Path] = (), *, holds_flow: Callable[[Path], bool] = lambda _: True) -> None:
        self.paths = tuple(paths)
        # A folder that is gone later, such as one on a disk that is away, is no file that is missing.
        self._folders = {path for path in self.paths if path.is_dir()}
        self._holds_flow = holds_flow

    def files(self) -> tuple[list[Path], list[tuple[Path, OSError]]]:
        """The flow files, each once; and the directories that cannot be read, with the reason."""
        found, unread = self._candidates()
        named = set(self.paths)
        return [path for path in found if path in named or self._holds_flow(path)], unread

    def stamp(self, others: Iterable[Path] = ()) -> FileStamps:
        """What tells whether any of the files, or of others, has changed."""
        return {path: _stamp(path) for path in (*self._candidates()[0], *others)}

    def _candidates(self) -> tuple[list[Path], list[tuple[Path, OSError]]]:
        found: dict[Path, None] = {}
        unread: list[tuple[Path, OSError]] = []
        for path in self.paths:
            if path not in self._folders:
                found[path] = None
                continue
            try:
                found |= dict.fromkeys(candidates(path))
            except OSError as error:
                unread.append((path, error))
        return list(found), unread


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
