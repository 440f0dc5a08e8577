"""Fingerprints of failures: what differs between failures of one cause makes no difference, and all else does."""

import string
import time
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.deadletters.groups import PATTERN_LIMIT, fingerprint, fingerprints, pattern_of

WORDS = st.lists(st.sampled_from(["no", "order", "in", "stock", "late", "refused", "can't", "timeout"]), max_size=6)
PHRASE = WORDS.map(" ".join)
HEX = st.text("0123456789abcdef", min_size=8, max_size=64)
VARIABLE = (
    st.integers(-(10**30), 10**30).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.uuids().map(str)
    | HEX
    | st.datetimes().map(lambda time: time.isoformat())
    | st.ip_addresses(v=4).map(str)
    | st.text(string.ascii_letters + string.digits, min_size=40, max_size=100)
    | st.integers(0, 10**9).map("order-{}".format)
)
QUOTED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\"'`"), max_size=50)


@given(before=PHRASE, after=PHRASE, one=VARIABLE, other=VARIABLE)
def test_numbers_and_ids_make_no_difference(before, after, one, other):
    """Of whatever form: both messages have one pattern, and one group."""
    first, second = f"{before} {one} {after}", f"{before} {other} {after}"

    assert pattern_of(first) == pattern_of(second) == " ".join(f"{before} # {after}".split())
    assert fingerprint("f", "s", "T", first) == fingerprint("f", "s", "T", second)


@given(before=PHRASE, one=QUOTED, other=QUOTED, quote=st.sampled_from("\"'`"))
def test_quoted_text_makes_no_difference(before, one, other, quote):
    """In any quotes; an apostrophe in a word is no quote."""
    first, second = (f"{before} {quote}{text}{quote} end" for text in (one, other))

    assert pattern_of(first) == pattern_of(second) == " ".join(f'{before} "…" end'.split())


@given(one=WORDS, other=WORDS)
def test_different_words_are_different_groups(one, other):
    """As are a different flow, step or type."""
    first, second = " ".join(one), " ".join(other)

    assert (fingerprint("f", "s", "T", first) == fingerprint("f", "s", "T", second)) == (one == other)
    assert len({fingerprint(*parts, first) for parts in (("f", "s", "T"), ("g", "s", "T"), ("f", "s", "S"))}) == 3
    assert fingerprint("a", "bc", "T", "") != fingerprint("ab", "c", "T", "")


@given(message=st.text(max_size=300))
def test_a_pattern_is_its_own_pattern(message):
    """So the group of a pattern shown to a user is the group of the letters."""
    pattern = pattern_of(message)

    assert pattern_of(pattern) == pattern
    assert len(pattern) <= PATTERN_LIMIT


HARD = [
    "a-",
    "-a",
    "a",
    "-",
    "#",
    "#-",
    "#, ",
    "1.",
    "1 ",
    '"',
    "'",
    "'a",
    "`“",
    "«»“”",
    "f",
    "e f",
    "é-",
    "=",
    "A" * 39,
]


@settings(max_examples=60, deadline=None)
@given(message=st.lists(st.sampled_from(HARD), min_size=1, max_size=4).map(lambda parts: "".join(parts) * 3000))
@pytest.mark.parametrize("end", ["", "!", "9"])
def test_no_message_takes_long(message, end):
    """Only the first 2,000 characters count, and the time grows with their number, not with its square."""
    message = message[: PATTERN_LIMIT - 1] + end
    started = time.thread_time()

    pattern_of(message + "x" * 1_000_000)

    assert time.thread_time() - started < 0.1


def test_the_first_version_of_the_fingerprint():
    """Ids are stored: a change of them is a new version, with a migration."""
    assert fingerprint("orders", "inventory", "InventoryUnavailable", "Inventory unavailable") == "1-efb4988e20d2"
    assert pattern_of("GET http://10.0.0.1:8080/orders/17: 503") == "GET http://#/orders/#"
    assert pattern_of(f"no {UUID(int=5)},\n [1, 2.5, -3] of 'a b', can't won't") == "no #, [#] of \"…\", can't won't"


def test_many_failures_at_once_have_the_same_fingerprints():
    """As one by one."""
    facts = [("f", "s", "T", f"no {word}" + "y" * 3000) for word in ("a", "b", "a")]

    assert list(fingerprints(*zip(*facts, strict=True))) == [fingerprint(*each) for each in facts]
