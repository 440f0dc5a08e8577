"""What is special for `route`: one look, three ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import Observable, Subject

from penstock.core.element import Element, Outcome
from penstock.core.ledger import Ledger
from penstock.core.window import Window
from penstock.runtime.wiring import partition

WAYS = (None, Outcome.FAILED, Outcome.FILTERED)


class Looked(Element[Any]):
    """An element that counts how often its outcome is looked at."""


@given(st.lists(st.lists(st.sampled_from(WAYS), min_size=1, max_size=6), max_size=6))
def test_each_element_goes_one_way_in_order(batches: list[list[Outcome | None]]) -> None:
    """Success, failure, filtered: each element on one branch, in the order in which it came."""
    ledger = Ledger(Window())
    seqs = iter(range(1000))
    sent = [[Element(None, next(seqs), ledger, outcome=outcome) for outcome in batch] for batch in batches]
    came: dict[Outcome | None, list[int]] = {way: [] for way in WAYS}
    completed: list[int] = []
    source: Subject[list[Element[Any]]] = Subject()
    for way, branch in zip(WAYS, partition(source), strict=True):
        branch.subscribe(
            lambda elements, way=way: came[way].extend(element.seq for element in elements),
            on_completed=lambda: completed.append(1),
        )
    for batch in sent:
        source.on_next(batch)
    source.on_completed()

    assert len(completed) == 3
    for way in WAYS:
        assert came[way] == [element.seq for batch in sent for element in batch if element.outcome is way]


def test_the_input_is_subscribed_once_and_last() -> None:
    """It starts with the third branch, so nothing can be missed, and once, so nothing runs twice."""
    subscriptions: list[int] = []
    branches = partition(Observable(lambda *_: subscriptions.append(1)))
    for number, branch in enumerate(branches, 1):
        branch.subscribe()
        assert len(subscriptions) == (number == 3)


def test_an_error_reaches_all_branches() -> None:
    """A fault of the flow ends every branch."""
    source: Subject[Any] = Subject()
    errors: list[Exception] = []
    for branch in partition(source):
        branch.subscribe(on_error=errors.append)
    source.on_error(KeyError("x"))

    assert len(errors) == 3


def test_a_branch_takes_one_subscriber() -> None:
    """A second one is refused."""
    branches = partition(Subject())
    branches.success.subscribe()
    with pytest.raises(RuntimeError, match="accepts one subscriber"):
        branches.success.subscribe(on_error=_raise)


def _raise(error: Exception) -> None:
    raise error
