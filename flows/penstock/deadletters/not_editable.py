"""What a log does not support: every method that needs one record, a count, or a change."""

# ruff: noqa: ARG002 - the arguments are those of the protocol

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import DeadLetterQuery, GroupField
from penstock.errors import NotSupportedByStore


class NotEditable:
    """The methods of `DeadLetterStore` that logs do not have. Nothing is emulated."""

    editable = False
    url: str

    async def get(self, id: str) -> DeadLetter | None:
        """Raise `NotSupportedByStore`. To find a letter, read the log: `page` with `ids`."""
        self._unsupported("look up a letter by its id")

    async def count(self, query: DeadLetterQuery, *, by: Sequence[GroupField] = ()) -> Mapping[tuple[str, ...], int]:
        """Raise `NotSupportedByStore`."""
        self._unsupported("count letters")

    async def update(self, ids: Sequence[str], *, state: str) -> int:
        """Raise `NotSupportedByStore`."""
        self._unsupported("change the state of letters")

    async def delete(self, query: DeadLetterQuery) -> int:
        """Raise `NotSupportedByStore`."""
        self._unsupported("delete letters")

    def _unsupported(self, action: str) -> NoReturn:
        raise NotSupportedByStore(self.url, action)
