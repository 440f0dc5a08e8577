"""The result of one element: `Ok` with its value, or `Failed` with its failure."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, Never, TypeAlias, TypeVar, final

from msgspec import Struct

from penstock.core.element import OK, UNKNOWN, Element, Failure

T = TypeVar("T", covariant=True)


@final
class Ok(Struct, Generic[T], frozen=True):
    """The result of an element that reached the end of the flow.

    >>> match result:
    ...     case Ok(value):
    ...         print(value)
    ...     case Failed(failure):
    ...         print(failure.message)
    """

    value: T
    """The final value of the element."""
    seq: int
    """The position of the element in the input, starting at 0."""
    key: Any = None
    """The key of the element, in a flow with a `key`."""
    part: int | None = None
    """The index of the part, if a step such as `flat_map` split the element."""

    ok: ClassVar[Literal[True]] = True

    @property
    def failure(self) -> Never:
        """Raise `AttributeError`: this element did not fail."""
        raise AttributeError(f"element {self.seq} did not fail, so it has no failure; check result.ok first")


@final
class Failed(Struct, frozen=True):
    """The result of an element that failed."""

    failure: Failure
    """Where and why it failed."""
    seq: int
    """The position of the element in the input, starting at 0."""
    key: Any = None
    """The key of the element, in a flow with a `key`."""
    part: int | None = None
    """The index of the part, if a step such as `flat_map` split the element."""
    dead_letter: str | None = None
    """The id of its dead letter, in a flow that stores dead letters."""

    ok: ClassVar[Literal[False]] = False

    @property
    def value(self) -> Never:
        """Raise `AttributeError`: an element that failed has no value."""
        failure = self.failure
        raise AttributeError(
            f"element {self.seq} failed at step {failure.step}, so it has no value; check result.ok first "
            f"({failure.type}: {failure.message})"
        )


Result: TypeAlias = Ok[T] | Failed
"""The result of one element. Distinguish the two with `isinstance(result, Failed)`, `match` or `result.ok`."""


def result_of(element: Element[Any]) -> Result[Any]:
    """Return the result of an element that went through all steps."""
    if element.outcome is None or element.outcome is OK:
        return Ok(element.value, element.seq, element.key, element.part)
    return Failed(element.failure or UNKNOWN, element.seq, element.key, element.part, element.dead_letter_id)
