"""A database that is only to be read: how it is opened, and whether it can be read as it is."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

from penstock.deadletters.schema import MIGRATIONS, version_of
from penstock.deadletters.writer import Place, Writer
from penstock.errors import StoreMissing, StoreTooNew, StoreTooOld


def access(path: Path, *, read_only: bool) -> dict[str, str]:
    """How SQLite is to open a file, as parameters of its URI.

    A database in WAL mode can be read without write permission if its -wal and -shm files are there. If there is no
    -wal file, nothing is missing from the database itself, and `immutable` reads it without making these files
    (https://www.sqlite.org/wal.html#read_only_databases).
    """
    if not read_only or _is_writable(path):
        return {"mode": "rw"}
    try:
        has_wal = os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        has_wal = False
    return {"mode": "ro"} if has_wal else {"mode": "ro", "immutable": "1"}


def make_readable(path: Path, place: Place) -> None:
    """See to it that a database that exists can be read; one of an older schema is brought up to date. Blocks.

    Raises `StoreMissing` if it holds no letters, `StoreTooNew` if a newer Penstock wrote it, `StoreTooOld` if it is
    older and may not be written to, or an error of SQLite.
    """
    uri = f"{uri_of(path)}?{urlencode(access(path, read_only=True))}"
    with closing(sqlite3.connect(uri, uri=True, timeout=place.busy_seconds, isolation_level=None)) as database:
        found = version_of(database)
    if found == 0:
        raise StoreMissing(place.url)
    if found > len(MIGRATIONS):
        raise StoreTooNew(place.url, found, len(MIGRATIONS))
    if found < len(MIGRATIONS):
        if not _is_writable(path):
            raise StoreTooOld(place.url, found, len(MIGRATIONS))
        writer = Writer(place)
        writer.open()
        writer.close()


def uri_of(path: Path) -> str:
    """The URI of a database, without parameters: opening one by its URI does not have to create it."""
    return f"file:{quote(os.fsencode(path))}"


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
