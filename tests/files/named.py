"""Functions that flow files of the tests call by their names."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from reactivex import Observable
from reactivex import operators as ops

from penstock.core.element import Element
from penstock.core.operators import sync_operator
from penstock.sources import Source, generate


class Parcel(Struct):
    """An item that is described in Python."""

    id: int
    kg: float = 1.0


def double(value: Any) -> Any:
    return value


def heavy(value: Any) -> bool:
    return bool(value)


def look(value: Any) -> None:
    """A glance."""


async def answer(value: Any) -> Any:
    return value


async def answers(values: list[Any]) -> list[Any]:
    return values


def merge(value: Any, found: dict[str, Any]) -> Any:
    return value | found


def distinct(source: Observable[Any]) -> Observable[Any]:
    return source.pipe(ops.distinct_until_changed())


def latest(source: Observable[Any]) -> Observable[Any]:
    return source.pipe(ops.last())


def _nothing(_: list[Element[Any]]) -> None:
    """Leaves all elements alone."""


def own(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
    return sync_operator("own", _nothing)(source)


made = sync_operator("made", _nothing)
"""Made by a function, so it does not have this name."""


def numbers() -> Source[int]:
    return generate(3, abs)


def key_of(value: Any) -> str:
    return f"{value['id']}"
