"""Splitting JSON arrays into the bytes of their items, also if an item is not valid JSON."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from penstock_http.requests.body import split_array

LEAVES = st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{},:"\\ aé')
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
BLANKS = st.sampled_from(["", " ", "\n\t", "\r\n"])
BROKEN = st.sampled_from(['{"id":01}', "NaN", '"\\ud800"', '{"a":[{"b":nul}]}', "1 2"])


@given(st.lists(VALUES.map(json.dumps) | BROKEN), BROKEN, BLANKS)
def test_an_invalid_item_does_not_change_the_others(others: list[str], bad: str, blank: str) -> None:
    """Brackets, commas and strings mark the end of an item, whatever it contains."""
    items = [*others, bad, *others]
    body = f"{blank}[{blank}" + f"{blank},{blank}".join(items) + f"{blank}]{blank}"
    assert asyncio.run(split_array(bytearray(body.encode()))) == [item.encode() for item in items]


@given(st.lists(VALUES.map(json.dumps) | BROKEN))
def test_a_byte_order_mark_before_the_array_is_ignored(items: list[str]) -> None:
    """Windows tools write one at the start of a file, and curl sends it unchanged."""
    body = "[" + ",".join(items) + "]"
    assert asyncio.run(split_array(bytearray(body.encode("utf-8-sig")))) == [item.encode() for item in items]
