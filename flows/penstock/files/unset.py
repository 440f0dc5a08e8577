"""An environment for reading flow files from which nothing will run: every variable is set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.environment import Placeholder

PLACEHOLDER = Placeholder("http://unset")
"""It can stand for an address, for a part of one, and for any text."""


class Unset(Mapping[str, str]):
    """An environment in which every variable is set."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known

    def __getitem__(self, name: str) -> str:
        return self._known.get(name) or PLACEHOLDER

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
