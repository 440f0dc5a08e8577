# The names of `__init__.py` for type checkers. A test compares the two.

from penstock.deadletters.dead_letter import DeadLetter, as_document
from penstock.deadletters.memory import MemoryStore
from penstock.deadletters.store import (
    PAGE,
    PAGE_LIMIT,
    DeadLetterQuery,
    DeadLetterStore,
    LetterWriter,
    Page,
    Problem,
    StoreStatistics,
)
from penstock.deadletters.stores import Stores, create_store, find_letter, merge_pages, validate_store_url

__all__ = [
    "PAGE",
    "PAGE_LIMIT",
    "DeadLetter",
    "DeadLetterQuery",
    "DeadLetterStore",
    "LetterWriter",
    "MemoryStore",
    "Page",
    "Problem",
    "StoreStatistics",
    "Stores",
    "as_document",
    "create_store",
    "find_letter",
    "merge_pages",
    "validate_store_url",
]
