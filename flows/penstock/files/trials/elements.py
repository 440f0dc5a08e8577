"""What became of each element of a test, seen at the first and at the last step of its run."""

from __future__ import annotations

from typing import Any

from penstock.element import Element, Outcome, Step
from penstock.files.trials.traces import Trace, plain
from penstock.operators.each import each


class Register:
    """All elements that a run received, by their numbers. Tests are small: they are all kept."""

    def __init__(self, trace: Trace) -> None:
        self.elements: dict[int, Element[Any]] = {}
        self.inputs: dict[int, Any] = {}
        """What came in, as JSON has it."""
        self._trace = trace

    def settled(self, element: Element[Any], outcome: Outcome) -> None:
        """Note what the client hears nothing of."""
        unheard = outcome in (Outcome.FILTERED, Outcome.CANCELLED) and element.family is None
        if unheard and element.root.seq in self.inputs:
            part = "" if element.part is None else f", part {element.part}"
            self._trace.add(f"{outcome.value}: {self.label(element.root)}{part}")

    def step(self) -> Step[Any, Any]:
        """A step that notes what passes it, and changes nothing."""
        return each("test", self._note)

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
        return plain(element.value)
    return plain(element.input)


def fate(element: Element[Any]) -> Outcome:
    """How an element was settled, after its run."""
    if not element.settled:
        return Outcome.CANCELLED if element.letter is None else Outcome.FAILED
    if element.family is not None:
        return element.family.worst
    return element.outcome or Outcome.OK
