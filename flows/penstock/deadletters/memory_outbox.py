"""The store in memory with an outbox, for flows whose letters are copied."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.memory import MemoryStore
from penstock.deadletters.store import PageBuilder


class MemoryOutboxStore(MemoryStore):
    """A `MemoryStore` that is an `Outbox`. Letters that no copy has yet are lost with the process, as all others.

    The outbox has ids of letters in the store only, so it is as bounded as the store.
    """

    copies: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._uncopied: dict[str, dict[str, float]] = {}
        """By copy: the ids of letters that it needs, each with the end of its lease in the time of the event loop."""

    def _add(self, letters: Sequence[DeadLetter]) -> int:
        """Store letters, all or none, and record which copies need them; returns how many were new."""
        known = self._letters.by_id
        fresh = [letter.id for letter in letters if letter.id not in known] if self.copies else []
        added = super()._add(letters)
        for copy in self.copies:
            self._uncopied.setdefault(copy, {}).update(dict.fromkeys(fresh, 0.0))
        return added

    def _is_needed(self, id: str) -> bool:
        """Return whether a copy does not have a letter yet."""
        return any(id in self._uncopied.get(copy, ()) for copy in self.copies)

    async def take_uncopied(self, copy: str, count: int, lease: float) -> list[DeadLetter]:
        """Return letters that a copy needs, in the order in which they were stored. Forgets those that were deleted."""
        leases, now = self._uncopied.get(copy, {}), asyncio.get_running_loop().time()
        page = PageBuilder(count)
        for id in [id for id, until in leases.items() if until <= now]:
            letter = await self.get(id)
            if letter is None:
                del leases[id]
            elif page.add(letter):
                leases[id] = now + lease
            else:
                break
        return page.page(more=False).letters

    async def mark_copied(self, copy: str, ids: Sequence[str]) -> None:
        """Record that a copy has letters."""
        for id in ids:
            self._uncopied.get(copy, {}).pop(id, None)

    async def postpone_uncopied(self, copy: str, ids: Sequence[str], seconds: float) -> None:
        """Let the lease of letters end in some seconds."""
        until = asyncio.get_running_loop().time() + seconds
        for id in ids:
            if id in self._uncopied.get(copy, {}):
                self._uncopied[copy][id] = until

    async def count_uncopied(self) -> Mapping[str, int]:
        """Return how many letters each copy needs."""
        return {copy: len(leases) for copy, leases in self._uncopied.items()}
