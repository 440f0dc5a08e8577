"""Change the inputs of letters by assignments: `currency="EUR"`, `amount=amount * 100`, `card.country="DE"`.

An assignment is the name of a field, with dots for nested ones, and an expression in the language of flow files. In an
expression, the fields of the item are variables, and `value` is the item itself. All expressions of an edit see the
item as it was before; the assignments are applied in order.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from penstock.core.partial_results import is_plain
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import PAGE_BYTES
from penstock.errors import (
    ExpressionFailed,
    IncompleteInput,
    InvalidAssignment,
    InvalidExpression,
    MalformedRow,
    NotEditable,
)
from penstock.expressions import Expression
from penstock.formats.csv_reader import parse_row
from penstock.redrive.field_names import VARIABLE, original_offset, with_fields
from penstock.redrive.records import Change
from penstock.support.json_encoding import describe_json_error

MAX_ASSIGNMENTS = 50
"""Assignments in one edit."""

MAX_LENGTH = 10_000
"""Characters of an assignment."""

MAX_RESULT_BYTES = 1024 * 1024
"""Bytes of JSON that all assignments together may write into one input."""

SLICE_SECONDS = 0.05
"""Seconds after which other tasks of the event loop run. One expression takes at most 0.1 s."""

_TARGET = re.compile(r"""\s*([^\s.=\[\]*"'`]+(?:\.[^\s.=\[\]*"'`]+)*)\s*=""")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Assignment:
    """One field, and the expression for its new value."""

    text: str
    path: tuple[str, ...]
    expression: Expression

    @classmethod
    def parse(cls, text: str) -> Assignment:
        """Parse `field=EXPRESSION`. Raises `InvalidAssignment`."""
        if len(text) > MAX_LENGTH:
            raise InvalidAssignment(f"{text[:40]}…", f"it has more than {MAX_LENGTH} characters")
        target = _TARGET.match(text)
        if target is None:
            raise InvalidAssignment(text, "it does not begin with the name of a field and =", 1)
        start = target.end()
        written = text[start:]
        if written.startswith("="):
            raise InvalidAssignment(text, "== compares; an assignment has one =", start + 1)
        if not written.strip():
            raise InvalidAssignment(text, "the expression is missing", start + 1)
        try:
            replaced, inserted = with_fields(written)
        except ValueError as error:
            raise InvalidAssignment(text, str(error)) from None
        try:
            expression = Expression(replaced, VARIABLE)
        except InvalidExpression as error:
            line_start = sum(len(line) + 1 for line in replaced.split("\n")[: error.line - 1])
            offset = original_offset(line_start + error.column - 1, inserted)
            raise InvalidAssignment(text, error.reason, start + offset + 1) from None
        return cls(text, tuple(target[1].split(".")), expression)

    def result(self, item: dict[str, Any]) -> Any:
        """Return the new value for an item. Raises `NotEditable`."""
        try:
            result = self.expression(item)
        except ExpressionFailed as error:
            raise NotEditable(f"{self.text}: {error.reason}") from None
        if not is_plain(result):
            raise NotEditable(f"{self.text}: the result cannot be written as JSON")
        return result


@dataclass(frozen=True, slots=True)
class Assignments:
    """Assignments that are applied together."""

    assignments: tuple[Assignment, ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Assignments:
        """Parse assignments. Raises `InvalidAssignment` with the position of the error."""
        if not texts:
            raise InvalidAssignment("", "expected at least one assignment")
        if len(texts) > MAX_ASSIGNMENTS:
            raise InvalidAssignment(f"{texts[MAX_ASSIGNMENTS]}", f"expected at most {MAX_ASSIGNMENTS} assignments")
        parsed: dict[tuple[str, ...], Assignment] = {}
        for text in texts:
            assignment = Assignment.parse(text)
            if assignment.path in parsed:
                raise InvalidAssignment(text, f"{'.'.join(assignment.path)} is assigned twice; remove one")
            parsed[assignment.path] = assignment
        return cls(tuple(parsed.values()))

    def apply(self, letter: DeadLetter) -> bytes:
        """Return the new input of a letter, which is JSON. Raises `NotEditable`.

        A row of CSV is read with its header first. Fields that are not assigned stay as they are written, so no number
        loses digits. An input that the assignments do not change is returned as it is.
        """
        steps = self._steps(letter)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                after: bytes = end.value
                return after

    def _steps(self, letter: DeadLetter) -> Generator[None, None, bytes]:
        """Yield after each part of the work, which may take 0.1 s. Returns the new input."""
        if not letter.complete:
            raise NotEditable(str(IncompleteInput(letter.id, letter.input_size, len(letter.input))))
        before = letter.input if letter.header is None else _read_row(letter.header, letter.input)
        fields = _fields_of(before)
        item = cast("dict[str, Any]", _decode(before))
        results: list[Any] = []
        size = 0
        for assignment in self.assignments:
            yield
            results.append(assignment.result(item))
            size += len(_encode(results[-1]))
            if size > MAX_RESULT_BYTES:
                raise NotEditable(f"{assignment.text}: the results have more than {MAX_RESULT_BYTES} bytes")
        yield
        after: dict[str, Any] = dict(item)
        for assignment, result in zip(self.assignments, results, strict=True):
            _assign(after, assignment, result)
        changed = {assignment.path[0] for assignment in self.assignments}
        written = {name: _encode(after[name]) for name in after if name in changed}
        if all(name in item and _encode(item[name]) == content for name, content in written.items()):
            return before
        return _encode(fields | {name: msgspec.Raw(content) for name, content in written.items()})

    def __call__(self, letter: DeadLetter) -> Change:
        """Return the change of one letter; with the error if it cannot be changed."""
        steps = self._steps(letter)
        while True:
            if (change := _advance(steps, letter)) is not None:
                return change

    async def changes(self, letters: Sequence[DeadLetter]) -> list[Change]:
        """Return the changes of letters. Lets other tasks run meanwhile."""
        return [change async for batch in self.batches(letters) for change in batch]

    async def batches(self, letters: Sequence[DeadLetter]) -> AsyncGenerator[list[Change]]:
        """Yield the changes of letters, in lists whose new inputs have about `PAGE_BYTES`. Lets other tasks run."""
        changes: list[Change] = []
        size = 0
        pause = time.monotonic() + SLICE_SECONDS
        for letter in letters:
            steps = self._steps(letter)
            change = None
            while change is None:
                if time.monotonic() > pause:
                    await asyncio.sleep(0)
                    pause = time.monotonic() + SLICE_SECONDS
                change = _advance(steps, letter)
            changes.append(change)
            size += len(change.after or b"")
            if size > PAGE_BYTES:
                yield changes
                changes, size = [], 0
        if changes:
            yield changes


def _advance(steps: Generator[None, None, bytes], letter: DeadLetter) -> Change | None:
    """Do one part of the work. Returns the change after the last one."""
    try:
        next(steps)
    except StopIteration as end:
        return Change(id=letter.id, before=letter.input, after=end.value)
    except NotEditable as error:
        return Change(id=letter.id, before=letter.input, error=str(error))
    return None


def parse_assignments(texts: Sequence[str]) -> Assignments:
    """Parse assignments. Raises `InvalidAssignment` with the position of the error.

    >>> edit = parse_assignments(['currency="EUR"', "amount=amount * 100"])
    """
    return Assignments.parse(texts)


def _read_row(header: str, row: bytes) -> bytes:
    try:
        return parse_row(header, row)
    except MalformedRow as error:
        raise NotEditable(f"{error}; replace the input by JSON") from None


def _fields_of(input: bytes) -> dict[str, Any]:
    """Return the fields of an object, as they are written."""
    try:
        return cast("dict[str, Any]", _decode_fields(input))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, msgspec.ValidationError):
            raise NotEditable("the input is not a JSON object; replace it") from None
        raise NotEditable(f"the input is not JSON: {describe_json_error(error, input)}; replace it") from None


def _assign(item: dict[str, Any], assignment: Assignment, result: Any) -> None:
    """Set a field of an object, and copy the objects that contain it. Objects that do not exist are created."""
    *outer, last = assignment.path
    for number, name in enumerate(outer, 1):
        inner = item.get(name, {})
        if not isinstance(inner, dict):
            raise NotEditable(f"{assignment.text}: {'.'.join(outer[:number])} is not an object")
        item[name] = item = dict(cast("dict[str, Any]", inner))
    item[last] = result
