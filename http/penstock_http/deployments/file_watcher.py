"""Find the flow files that are served, and reload flows when one of the files changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeAlias

from penstock.flowfile.discovery import candidates

POLL_SECONDS = 1.0
"""Seconds between two checks of the files."""

MAX_POLLS = 10
"""Checks in a row that may each find a further change before the files are reloaded as they are."""

FileStamps: TypeAlias = "dict[Path, tuple[int, int, int] | None]"
"""Modification time, size and inode of each file; None for a file that does not exist."""


class WatchedFiles:
    """Flow files, and directories of flow files. Files named `*.test.*` in a directory are skipped.

    `holds_flow` tells whether a file in a directory is a flow file.
    """

    def __init__(self, paths: Iterable[Path] = (), *, holds_flow: Callable[[Path], bool] = lambda _: True) -> None:
        self.paths = tuple(paths)
        # Remembered, because a directory that disappears later, for example with its disk, is not a missing flow file.
        self._directories = {path for path in self.paths if path.is_dir()}
        self._holds_flow = holds_flow

    def flow_files(self) -> tuple[list[Path], list[tuple[Path, OSError]]]:
        """Return each flow file once, and the directories that cannot be read, with the error."""
        found, unreadable = self._candidates()
        named = set(self.paths)
        return [path for path in found if path in named or self._holds_flow(path)], unreadable

    def stamps(self, others: Iterable[Path] = ()) -> FileStamps:
        """Return the stamps of the files and of `others`. They differ if a file has changed."""
        return {path: _stamp(path) for path in (*self._candidates()[0], *others)}

    def _candidates(self) -> tuple[list[Path], list[tuple[Path, OSError]]]:
        found: dict[Path, None] = {}
        unreadable: list[tuple[Path, OSError]] = []
        for path in self.paths:
            if path not in self._directories:
                found[path] = None
                continue
            try:
                found |= dict.fromkeys(candidates(path))
            except OSError as error:
                unreadable.append((path, error))
        return list(found), unreadable


class FlowReloader(Protocol):
    """Loads flow files again."""

    @property
    def files(self) -> WatchedFiles:
        """The files."""
        ...

    @property
    def stamps(self) -> FileStamps:
        """The stamps of the files when they were last loaded."""
        ...

    async def try_reload(self, cause: str) -> bool:
        """Reload. Returns False if the service shuts down."""
        ...


async def watch_files(reloader: FlowReloader, poll_seconds: float = POLL_SECONDS) -> None:
    """Reload flows whenever one of their files changed, until cancelled.

    Polling detects every kind of change on every file system, and costs one `stat` per file and second. Editors write
    a file in several steps, so the reload waits until two checks agree.
    """
    running = True
    while running:
        found = await _poll(reloader, poll_seconds)
        if found == reloader.stamps:
            continue
        for _ in range(MAX_POLLS):
            previous, found = found, await _poll(reloader, poll_seconds)
            if found == previous:
                break
        if found != reloader.stamps:  # another process of the service may have caused a reload meanwhile
            running = await reloader.try_reload("watch")


async def _poll(reloader: FlowReloader, seconds: float) -> FileStamps:
    await asyncio.sleep(seconds)
    return await asyncio.to_thread(reloader.files.stamps, reloader.stamps)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
