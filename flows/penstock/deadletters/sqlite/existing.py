"""Opening a database that exists, and checking that it can be read without changing it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

from penstock.deadletters.sqlite.migrations import MIGRATIONS, schema_version
from penstock.deadletters.sqlite.writer import Writer, WriterConfig
from penstock.errors import StoreMissing, StoreTooNew, StoreTooOld


def open_mode(path: Path, *, read_only: bool) -> dict[str, str]:
    """Return the parameters of the URI with which SQLite opens a file.

    A database in WAL mode can be read without write permission if its -wal and -shm files exist. If there is no -wal
    file, the database file is complete, and `immutable` reads it without creating these files
    (https://www.sqlite.org/wal.html#read_only_databases).
    """
    if not read_only or _is_writable(path):
        return {"mode": "rw"}
    try:
        has_wal = os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        has_wal = False
    return {"mode": "ro"} if has_wal else {"mode": "ro", "immutable": "1"}


def ensure_readable(path: Path, config: WriterConfig) -> None:
    """Check that a database can be read, and migrate an older one. Blocks.

    Raises `StoreMissing` if it has no table of letters, `StoreTooNew` if a newer Penstock wrote it, `StoreTooOld` if it
    is older and not writable, or an error of SQLite.
    """
    uri = f"{database_uri(path)}?{urlencode(open_mode(path, read_only=True))}"
    with closing(sqlite3.connect(uri, uri=True, timeout=config.busy_seconds, isolation_level=None)) as connection:
        version = schema_version(connection)
    if version == 0:
        raise StoreMissing(config.url)
    if version > len(MIGRATIONS):
        raise StoreTooNew(config.url, version, len(MIGRATIONS))
    if version < len(MIGRATIONS):
        if not _is_writable(path):
            raise StoreTooOld(config.url, version, len(MIGRATIONS))
        writer = Writer(config)
        writer.open()
        writer.close()


def database_uri(path: Path) -> str:
    """Return the URI of a database, without parameters. Its mode prevents that opening creates the file."""
    return f"file:{quote(os.fsencode(path))}"


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
