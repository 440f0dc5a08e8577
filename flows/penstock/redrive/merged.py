"""Several dead-letter stores read as one: their groups, and the cursor of their pages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from penstock.deadletters.dead_letter_queue import DeadLetterQueue, Group
from penstock.deadletters.store import PAGE, DeadLetterQuery

_LOG = "log:"


@dataclass(frozen=True, slots=True)
class LogCursor:
    """Where a page starts in one of several logs. It is written as `log:INDEX:POSITION`."""

    index: int
    """The number of the log, from 0."""
    position: str = ""
    """The cursor that the log itself returned; empty at its beginning."""

    @staticmethod
    def matches(text: str) -> bool:
        """Return whether a cursor is that of a log, and not the id of a letter."""
        return text.startswith(_LOG)

    @classmethod
    def parse(cls, text: str) -> LogCursor:
        """Parse a cursor. Raises `ValueError`."""
        index, separator, position = text.removeprefix(_LOG).partition(":")
        if not cls.matches(text) or not separator or not index.isdecimal() or len(index) > 6:
            raise ValueError(f"expected log:INDEX:POSITION, got {text[:100]!r}")
        return cls(int(index), position)

    def __str__(self) -> str:
        return f"{_LOG}{self.index}:{self.position}"


async def merged_groups(
    queues: Sequence[DeadLetterQueue], query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE
) -> list[Group]:
    """Return one page of the groups of several stores, the ones with the most recent letters first.

    A group that is in several stores is returned once. At most a page of each store is in memory.
    """
    place = None
    if after is not None:
        found = await _of_all(queues, query, after)
        place = _place(_merge(found)) if found else None
    groups: list[Group] = []
    seen: set[str] = set()
    async with AsyncExitStack() as stack:
        sources = [await stack.enter_async_context(aclosing(_following(queue, query, place))) for queue in queues]
        heads = [await anext(source, None) for source in sources]
        while len(groups) < limit:
            first = max((head for head in heads if head is not None), key=_place, default=None)
            if first is None:
                break
            index = next(index for index, head in enumerate(heads) if head is first)
            heads[index] = await anext(sources[index], None)
            if first.id in seen:
                continue
            seen.add(first.id)
            merged = _merge(await _of_all(queues, query, first.id) or [first])
            if place is None or _place(merged) < place:  # otherwise a previous page has it
                groups.append(merged)
    return groups


Place = tuple[datetime, str]
"""What groups are ordered by: the time of the last letter, and the id."""


def _place(group: Group) -> Place:
    return group.last_seen, group.id


async def _of_all(queues: Sequence[DeadLetterQueue], query: DeadLetterQuery, id: str) -> list[Group]:
    """Return the group with an id of each store that has it."""
    pages = await asyncio.gather(*(queue.groups(replace(query, group=id), limit=1) for queue in queues))
    return [group for page in pages for group in page]


async def _following(queue: DeadLetterQueue, query: DeadLetterQuery, place: Place | None) -> AsyncGenerator[Group]:
    """Yield the groups of one store that follow a place."""
    after = None
    if place is not None and [_place(own) for own in await _of_all([queue], query, place[1])] == [place]:
        after = place[1]
    while groups := await queue.groups(query, after=after, limit=PAGE):
        for group in groups:
            if place is None or _place(group) < place:
                yield group
        if len(groups) < PAGE:
            return
        after = groups[-1].id


def _merge(groups: Sequence[Group]) -> Group:
    """Merge the groups with one id of several stores."""
    by_age = sorted(groups, key=lambda group: group.first_seen)
    latest = max(groups, key=lambda group: group.last_seen)
    counts: Counter[str] = Counter()
    for group in groups:
        counts.update(group.counts)
    return replace(
        by_age[0],
        counts=dict(counts),
        last_seen=latest.last_seen,
        first_revision=next((group.first_revision for group in by_age if group.first_revision is not None), None),
        sample=latest.sample,
    )
