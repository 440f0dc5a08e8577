"""The source of a redrive: the elements of the letters that a job hands to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from penstock.core.element import Element
from penstock.deadletters import DeadLetter
from penstock.errors import ElementTooLarge, IncompleteInput, MalformedRow
from penstock.formats.csv_reader import parse_row
from penstock.formats.rejected import RejectedInput
from penstock.sources.source import Emitter, Source


class RedriveSource(Source[bytes]):
    """Emits an element for each letter, as credits allow. Holds one list of letters that waits for credits.

    `on_emit` is called with the sequence number of each element, before it is emitted.
    """

    name = "redrive"

    def __init__(self, on_emit: Callable[[int, DeadLetter], None], *, from_start: bool) -> None:
        super().__init__()
        self._on_emit = on_emit
        self._from_start = from_start
        self._letters: list[DeadLetter] = []
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()
        self._ended = False
        self._finishing = False

    async def put(self, letters: Sequence[DeadLetter]) -> bool:
        """Hand over letters when the letters before have been emitted. Returns False, and takes none, after the end."""
        await self._taken.wait()
        if self._ended:
            return False
        self._letters = list(letters)
        self._taken.clear()
        self._wake.set()
        return True

    def end(self) -> list[DeadLetter]:
        """Accept no further letters; return those that were not emitted."""
        self._ended = True
        rest, self._letters = self._letters, []
        self._wake.set()
        self._taken.set()
        return rest

    def finish(self) -> None:
        """Accept no further letters; emit those that are here."""
        self._finishing = True
        self._wake.set()

    async def produce(self, emitter: Emitter[Any]) -> None:
        while not self._ended:
            while self._letters:
                await self._emit_some(emitter)
            self._taken.set()
            self._wake.clear()
            if self._finishing:
                return
            if not self._ended:
                await self._wake.wait()

    async def _emit_some(self, emitter: Emitter[Any]) -> None:
        """Emit as many letters as there are credits for, at least one. Each is removed before it is emitted."""
        await emitter.wait_for_capacity()
        quota = await emitter.emit_quota(len(self._letters))
        letters = self._letters[:quota]
        if not letters:  # the run was drained meanwhile
            return
        sizes = [len(letter.input) for letter in letters]
        limit = emitter.ledger.window.bytes
        too_large = next((index for index, size in enumerate(sizes) if size > limit), None)
        if too_large == 0:
            taken = emitter.acquire(1)
            elements = [_oversized(letters[0], emitter, limit)]
        else:
            taken = emitter.acquire(len(letters) if too_large is None else too_large, sizes)
            values = [value_of(letter) for letter in letters[:taken]]
            elements = emitter.make_elements(values, sizes[:taken])
        if not taken:
            await emitter.ledger.window.wait_for_capacity()
            return
        for element, letter in zip(elements, letters, strict=False):
            element.input = letter.input
            element.key = letter.key
            if not self._from_start:
                element.partial_results = letter.partial_results
            self._on_emit(element.seq, letter)
        del self._letters[:taken]
        emitter.emit(elements)


def value_of(letter: DeadLetter) -> bytes:
    """Return the input of a letter as the step `decode` reads it. An input that cannot be read is rejected there."""
    if not letter.complete:
        error = IncompleteInput(letter.id, letter.input_size, len(letter.input))
        return RejectedInput.of_bytes(letter.input, error)
    if letter.header is None:
        return letter.input
    try:
        return parse_row(letter.header, letter.input)
    except MalformedRow as error:
        return RejectedInput.of_bytes(letter.input, error, letter.header)


def _oversized(letter: DeadLetter, emitter: Emitter[Any], limit: int) -> Element[Any]:
    element: Element[Any] = Element(None, emitter.seq, emitter.ledger)
    element.fail("source", ElementTooLarge(len(letter.input), limit))
    return element
