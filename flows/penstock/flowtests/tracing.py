"""What happened in a test, as lines with their times; the same test with the same seed gives the same ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import msgspec

from penstock.core.element import Element, Operator, Outcome
from penstock.core.operators import sync_operator

SHOWN = 200
"""Characters of a value that are shown."""


class Trace:
    """Lines, each with its second of virtual time. No ids and no times of day are in them."""

    def __init__(self, key: str | None) -> None:
        self.lines: list[tuple[float, str]] = []
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    @property
    def now(self) -> float:
        """Seconds since the test began."""
        return round(self._loop.time() - self._began, 9)

    def add(self, what: str) -> None:
        """Note what happens now."""
        self.lines.append((self.now, what))

    def name_of(self, value: Any) -> str:
        """What a value is called: by its key, or in short by itself."""
        known = to_plain(value)
        if self._key is not None and isinstance(known, dict) and self._key in known:
            return format_value(cast("dict[str, Any]", known)[self._key])
        return format_value(known, 60)


def to_plain(value: Any) -> Any:
    """A value as JSON has it: dicts, lists and scalars; what JSON does not know as its `repr`."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return msgspec.to_builtins(value, enc_hook=repr)
    except Exception:
        return repr(value)


def format_value(value: Any, limit: int = SHOWN) -> str:
    """A value in one line, shortened when it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else f"{text[:limit]}…"


def format_seconds(seconds: float) -> str:
    """A time of virtual time, or a span: `0.25 s`."""
    return f"{round(seconds, 6):.10g} s"


class ElementRecorder:
    """All elements that a run received, by their numbers. Tests are small: they are all kept."""

    def __init__(self, trace: Trace) -> None:
        self.elements: dict[int, Element[Any]] = {}
        self.inputs: dict[int, Any] = {}
        """What came in, as JSON has it."""
        self._trace = trace

    def settled(self, element: Element[Any], outcome: Outcome) -> None:
        """Note what the client hears nothing of."""
        unheard = outcome in (Outcome.FILTERED, Outcome.CANCELLED) and element.parts is None
        if unheard and element.root.seq in self.inputs:
            part = "" if element.part is None else f", part {element.part}"
            self._trace.add(f"{outcome.value}: {self.label(element.root)}{part}")

    def step(self) -> Operator[Any, Any]:
        """A step that notes what passes it, and changes nothing."""
        return sync_operator("test", self._note)

    def label(self, element: Element[Any]) -> str:
        """What an element is called in the trace."""
        if element.key is not None:
            return self._trace.name_of(element.key)
        return f"#{element.seq} {self._trace.name_of(self.inputs[element.seq])}"

    def _note(self, elements: list[Element[Any]]) -> None:
        for element in elements:
            root = element.root
            if root.seq not in self.elements:
                self.elements[root.seq] = root
                self.inputs[root.seq] = _input(root)
                self._trace.add(f"came in: {self.label(root)}")


def _input(element: Element[Any]) -> Any:
    """What came in: the value, or the text where it is none."""
    if element.outcome is None or not isinstance(element.value, bytes):
        return to_plain(element.value)
    return to_plain(element.input)


def outcome_of(element: Element[Any]) -> Outcome:
    """How an element was settled, after its run."""
    if not element.settled:
        return Outcome.CANCELLED if element.dead_letter_id is None else Outcome.FAILED
    if element.parts is not None:
        return element.parts.worst
    return element.outcome or Outcome.OK
