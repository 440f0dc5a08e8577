"""Durable dead letters: failed elements, and the stores that keep them.

A name is imported when it is first used: the process that writes letters to SQLite imports only what it needs, so that
the first letter is stored sooner. `__init__.pyi` declares the same names for type checkers.
"""

from importlib import import_module as _import_module

_MODULES = {
    "PAGE": "store",
    "PAGE_LIMIT": "store",
    "DeadLetter": "dead_letter",
    "DeadLetterQuery": "store",
    "DeadLetterStore": "store",
    "LetterWriter": "store",
    "MemoryStore": "memory",
    "Page": "store",
    "Problem": "store",
    "StoreStatistics": "store",
    "Stores": "stores",
    "as_document": "dead_letter",
    "create_store": "stores",
    "find_letter": "stores",
    "merge_pages": "stores",
    "validate_store_url": "stores",
}
"""The names, and the modules that define them."""

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'penstock.deadletters' has no attribute {name!r}")
    value = getattr(_import_module(f"penstock.deadletters.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
