"""Redrive letters through a flow without a store of jobs: elements that arrive with their partial results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laws.virtual import quiet
from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults
from penstock.sources import Source
from penstock.sources.source import Emitter


class Redriven(Source[bytes]):
    """Elements of the inputs of letters, in one batch, with or without the results that the letters have."""

    name = "redriven"

    def __init__(self, letters: Sequence[DeadLetter], *, from_start: bool = False) -> None:
        super().__init__()
        self._letters = letters
        self._from_start = from_start

    async def produce(self, emitter: Emitter[bytes]) -> None:
        assert emitter.acquire(len(self._letters)) == len(self._letters)
        elements = emitter.make_elements([letter.input for letter in self._letters])
        for element, letter in zip(elements, self._letters, strict=True):
            element.partial_results = None if self._from_start else letter.partial_results
        emitter.emit(elements)


def letters_of(flow: Flow[Any], source: Any) -> list[DeadLetter]:
    """The letters of a run, by position in the input."""

    async def main() -> list[DeadLetter]:
        store = MemoryStore()
        made = source if isinstance(source, Source) else from_iterable(source)
        await flow.dead_letters(store).start(made, DiscardResults()).finished
        return (await store.page(DeadLetterQuery())).letters

    return sorted(quiet(main()), key=lambda letter: letter.seq)
