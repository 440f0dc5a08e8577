"""Dead letters in a SQLite file."""

from penstock.deadletters.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
