"""Files that the parts of a run use, and whether two of them are the same."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class UsedFile(NamedTuple):
    """A file that a source reads or a sink writes to, for checks that nothing else in a run uses it."""

    description: str
    """What it is, as the subject of a message: `the source orders.csv`, without the values of variables."""
    file: str | int
    """Its path, with the values of variables; or the open descriptor of standard input or standard output."""


def same_regular_file(file: str | int, other: str | int) -> bool:
    """Return whether two paths or descriptors name the same regular file, or will once it exists."""
    status, other_status = file_at(file), file_at(other)
    if status is not None and other_status is not None:
        return os.path.samestat(status, other_status)
    if isinstance(file, int) or isinstance(other, int) or os.path.exists(file) or os.path.exists(other):
        return False
    return os.path.realpath(file) == os.path.realpath(other)


def file_at(file: str | int) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else, or if no file exists."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
