"""The SQLAlchemy engine for queries."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from penstock.backends.postgres import PostgresServer


def create_engine(server: PostgresServer, pool_size: int, pool_seconds: float) -> AsyncEngine:
    """Create an engine. Its connections are opened when they are needed, and checked before they are used again."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=server.connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_seconds,
        pool_pre_ping=True,
    )
    event.listen(engine.sync_engine, "before_cursor_execute", _replace_nul, retval=True)
    return engine


def _replace_nul(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    r"""Replace NUL in texts, which PostgreSQL rejects, by the escape of JSON, `\u0000`."""
    return statement, _clean(parameters)


def _clean(value: Any) -> Any:
    """Replace NUL in a value, in a row of values, or in rows."""
    if isinstance(value, str):
        return value.replace("\0", "\\u0000")
    if isinstance(value, (tuple, list)):
        return tuple(map(_clean, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value
