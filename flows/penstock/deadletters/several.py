"""Several stores, read as if they were one."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from operator import attrgetter

from penstock.deadletters.letter import Letter
from penstock.deadletters.sheet import Sheet
from penstock.deadletters.store import PAGE, Filter, Page, Store


async def page_of(stores: Sequence[Store], filter: Filter, *, after: str | None = None, limit: int = PAGE) -> Page:
    """Letters of all stores in the order of their ids, beginning after one of them. Raises `StoreError` if one does.

    A letter that two of them have, because they are one file under two names, is there once.
    """
    import asyncio  # late: the process that writes letters starts a third faster without it

    pages = await asyncio.gather(*(store.page(filter, after=after, limit=limit) for store in stores))
    sheet, last = Sheet(limit), ""
    for letter in heapq.merge(*(page.letters for page in pages), key=attrgetter("id")):
        if letter.id == last:
            continue
        if not sheet.take(letter):  # no later than a page of one of them, which was filled in the same way
            return sheet.page(more=True)
        last = letter.id
    return sheet.page(more=any(page.next is not None for page in pages))


async def letter_in(stores: Sequence[Store], id: str) -> Letter | None:
    """One letter, or None. Raises `StoreError` if one of the stores does and no other one has it."""
    import asyncio  # late, as above

    found = await asyncio.gather(*(store.get(id) for store in stores), return_exceptions=True)
    letter = next((each for each in found if isinstance(each, Letter)), None)
    if letter is None and (error := next((each for each in found if isinstance(each, BaseException)), None)):
        raise error
    return letter
