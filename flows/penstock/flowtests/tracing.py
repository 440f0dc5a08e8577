"""Trace the events of a test with their times. The same test with the same seed has the same trace."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import msgspec

from penstock.core.element import Element, Operator, Outcome
from penstock.core.operators import sync_operator

MAX_LENGTH = 200
"""The maximum length of a value in messages, in characters."""


class Trace:
    """Events, each with its time in virtual seconds. They contain no ids and no times of day."""

    def __init__(self, key: str | None) -> None:
        self.lines: list[tuple[float, str]] = []
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    @property
    def now(self) -> float:
        """Return the seconds since the start of the test."""
        return round(self._loop.time() - self._began, 9)

    def add(self, event: str) -> None:
        """Add an event that happens now."""
        self.lines.append((self.now, event))

    def name_of(self, value: Any) -> str:
        """Return the name of a value: its key, or the shortened value in a flow without keys."""
        known = to_plain(value)
        if self._key is not None and isinstance(known, dict) and self._key in known:
            return format_value(cast("dict[str, Any]", known)[self._key])
        return format_value(known, 60)


def to_plain(value: Any) -> Any:
    """Convert a value to JSON values: dicts, lists and scalars. Other objects become their `repr`."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return msgspec.to_builtins(value, enc_hook=repr)
    except Exception:
        return repr(value)


def format_value(value: Any, limit: int = MAX_LENGTH) -> str:
    """Format a value as one line of JSON, shortened to a maximum length."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else f"{text[:limit]}…"


def format_seconds(seconds: float) -> str:
    """Format a time or a duration: `0.25 s`."""
    return f"{round(seconds, 6):.10g} s"


class ElementRecorder:
    """Records all elements that a run received, by seq. Tests are small, so all are kept."""

    def __init__(self, trace: Trace) -> None:
        self.elements: dict[int, Element[Any]] = {}
        self.inputs: dict[int, Any] = {}
        """The values that were received, as JSON values."""
        self._trace = trace

    def settled(self, element: Element[Any], outcome: Outcome) -> None:
        """Trace an outcome that the client does not receive: filtered or cancelled."""
        hidden = outcome in (Outcome.FILTERED, Outcome.CANCELLED) and element.parts is None
        if hidden and element.root.seq in self.inputs:
            part = "" if element.part is None else f", part {element.part}"
            self._trace.add(f"{outcome.value}: {self.label(element.root)}{part}")

    def step(self) -> Operator[Any, Any]:
        """Return an operator that records the elements, and does not change them."""
        return sync_operator("test", self._record)

    def label(self, element: Element[Any]) -> str:
        """Return the name of an element in the trace."""
        if element.key is not None:
            return self._trace.name_of(element.key)
        return f"#{element.seq} {self._trace.name_of(self.inputs[element.seq])}"

    def _record(self, elements: list[Element[Any]]) -> None:
        for element in elements:
            root = element.root
            if root.seq not in self.elements:
                self.elements[root.seq] = root
                self.inputs[root.seq] = _input(root)
                self._trace.add(f"received: {self.label(root)}")


def _input(element: Element[Any]) -> Any:
    """Return the value that was received, or the text of an input that could not be decoded."""
    if element.outcome is None or not isinstance(element.value, bytes):
        return to_plain(element.value)
    return to_plain(element.input)


def outcome_of(element: Element[Any]) -> Outcome:
    """Return the outcome of an element after its run."""
    if not element.settled:
        return Outcome.CANCELLED if element.dead_letter_id is None else Outcome.FAILED
    if element.parts is not None:
        return element.parts.worst
    return element.outcome or Outcome.OK
