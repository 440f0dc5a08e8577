"""Conversion of SQLite errors to `StoreError`, with advice."""

from __future__ import annotations

import sqlite3
from pathlib import Path, PurePath

from penstock.deadletters.store import SQLITE
from penstock.errors import StoreError, describe

_ADVICE = {
    "SQLITE_FULL": "the disk is full; free some space, the letters are stored by a later attempt",
    "SQLITE_BUSY": "another process holds its lock; find it with `fuser {path}`, and end it if it hangs",
    "SQLITE_LOCKED": "another connection holds its lock; try again",
    "SQLITE_READONLY": "it cannot be written; give this user write permission for the file and its folder",
    "SQLITE_PERM": "access is denied; give this user read and write permission for the file and its folder",
    "SQLITE_NOTADB": "it is not a SQLite database; name another file, or move this one away",
    "SQLITE_CORRUPT": "it is damaged; stop Penstock, keep a copy, save what is left with `sqlite3 {path} .recover`",
    "SQLITE_IOERR": "the disk failed to read or write; check the system log and the free space",
    "SQLITE_TOOBIG": "a letter is larger than SQLite supports; lower the limit for one element",
    "SQLITE_INTERRUPT": "the query was interrupted because the store was closed",
}

_PERMANENT = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
"""Prefixes of the codes of errors that recur until the file is repaired."""


def concerns_store(error: Exception) -> bool:
    """Check whether an error means that the store does not work; otherwise it concerns one letter."""
    return isinstance(error, (sqlite3.OperationalError, StoreError, OSError)) or type(error) is sqlite3.DatabaseError


def to_store_error(error: Exception, url: str, path: Path) -> StoreError:
    """Convert an error of the database at a path to a `StoreError`. A `StoreError` is returned unchanged.

    The message names the file as `url` does: variables in it may hold secrets, which do not belong in logs.
    """
    if isinstance(error, StoreError):
        return error
    cause: BaseException = getattr(error, "orig", None) or error  # SQLAlchemy wraps errors of the driver
    store_error = StoreError(f"dead-letter store {url}: {_advice(cause, path, url)}")
    store_error.__cause__ = cause
    store_error.permanent = getattr(cause, "sqlite_errorname", "").startswith(_PERMANENT)
    return store_error


def _advice(error: BaseException, path: Path, url: str) -> str:
    display_path = url.removeprefix(SQLITE)  # if the whole URL is a variable: the variable
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_CANTOPEN"):
        return _cannot_open(path, display_path)
    for prefix, advice in _ADVICE.items():
        if code.startswith(prefix):
            return advice.format(path=display_path)
    if isinstance(error, (OverflowError, UnicodeError, sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return f"a letter contains a value that SQLite cannot store ({describe(error)})"
    return error.strerror if isinstance(error, OSError) and error.strerror else describe(error)


def _cannot_open(path: Path, display_path: str) -> str:
    if path.is_dir():
        return f"{display_path} is a folder; name a file in it"
    parent = path.absolute().parent
    if parent.is_dir():
        return f"cannot open {display_path}; give this user read and write permission for it and its folder"
    if Path(display_path) == path:
        folder = str(parent)
    else:
        folder = str(PurePath(display_path).parent) if "/" in display_path else "for it"
    return f"there is no folder {folder}; create it, or name another file"
