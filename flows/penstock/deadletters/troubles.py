"""What an error of SQLite means, in a sentence that says what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path, PurePath

from penstock.deadletters.store import SQLITE
from penstock.errors import StoreError, describe

_WAYS_OUT = {
    "SQLITE_FULL": "the disk is full; make room on it, the letters are tried again",
    "SQLITE_BUSY": "another process holds its lock; find it with `fuser {path}`, and end it if it hangs",
    "SQLITE_LOCKED": "another connection holds its lock; try again",
    "SQLITE_READONLY": "it cannot be written; give this user the right to write the file and its folder",
    "SQLITE_PERM": "access is denied; give this user the right to read and write the file and its folder",
    "SQLITE_NOTADB": "it is no SQLite database; name another file, or move this one away",
    "SQLITE_CORRUPT": "it is damaged; stop Penstock, keep a copy, save what is left with `sqlite3 {path} .recover`",
    "SQLITE_IOERR": "the disk failed to read or write; look at the system's log and at the space left",
    "SQLITE_TOOBIG": "a letter is larger than SQLite can hold; lower the limit for one element",
}

_PERMANENT = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
"""How the codes begin of errors that further attempts meet too."""


def concerns_store(error: Exception) -> bool:
    """Whether an error says that the store does not work; else a letter holds what SQLite cannot keep."""
    return isinstance(error, (sqlite3.OperationalError, StoreError, OSError)) or type(error) is sqlite3.DatabaseError


def trouble(error: Exception, url: str, path: Path) -> StoreError:
    """The `StoreError` for any error that came from the database at a path; one that is a `StoreError` stays.

    `url` is as it was written, and its file is named so: what a variable holds is nothing for logs.
    """
    if isinstance(error, StoreError):
        return error
    cause: BaseException = getattr(error, "orig", None) or error  # SQLAlchemy wraps what the driver raised
    story = StoreError(f"the dead letters at {url} did not answer: {_way_out(cause, path, url)}")
    story.__cause__ = cause
    story.permanent = getattr(cause, "sqlite_errorname", "").startswith(_PERMANENT)
    return story


def _way_out(error: BaseException, path: Path, url: str) -> str:
    name = _written(url)
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_CANTOPEN"):
        return _cannot_open(path, name)
    for known, sentence in _WAYS_OUT.items():
        if code.startswith(known):
            return sentence.format(path=name)
    if isinstance(error, (OverflowError, UnicodeError, sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return f"a letter holds a value that SQLite cannot keep ({describe(error)})"
    return error.strerror if isinstance(error, OSError) and error.strerror else describe(error)


def _written(url: str) -> str:
    """The path in a URL, as it was written; of one that is a variable as a whole, the variable."""
    return url.removeprefix(SQLITE)


def _cannot_open(path: Path, name: str) -> str:
    parent = path.absolute().parent
    folder = str(parent) if Path(name) == path else str(PurePath(name).parent) if "/" in name else "for it"
    if path.is_dir():
        return f"{name} is a folder; name a file in it"
    if not parent.is_dir():
        return f"there is no folder {folder}; create it, or name another file"
    return f"{name} cannot be opened; give this user the right to read and write it and its folder {folder}"
