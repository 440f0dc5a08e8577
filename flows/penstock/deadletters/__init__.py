"""Where failed elements wait: dead letters, and the stores that keep them."""

from penstock.deadletters.letter import Letter, as_document
from penstock.deadletters.memory import MemoryStore
from penstock.deadletters.several import letter_in, page_of
from penstock.deadletters.store import PAGE, PAGE_LIMIT, Filter, Page, Store
from penstock.deadletters.stores import Stores, check_store, make_store

__all__ = [
    "PAGE",
    "PAGE_LIMIT",
    "Filter",
    "Letter",
    "MemoryStore",
    "Page",
    "Store",
    "Stores",
    "as_document",
    "check_store",
    "letter_in",
    "make_store",
    "page_of",
]
