"""Letters as JSON documents: complete, and the same after they were read again."""

import json
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deadletters import DeadLetter, as_document
from penstock.deadletters.letter_documents import decode_letter, encode_letter, from_document
from penstock.support.ids import new_id
from penstock.support.json_encoding import encode_json
from stores.letters import letter

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**63 - 1)
TIME = st.datetimes(timezones=st.just(UTC))
KEY = st.none() | TEXT | NUMBER | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(KEY | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5)
LETTER = st.builds(
    DeadLetter, id=st.builds(new_id), flow=TEXT, run=TEXT, seq=COUNT, part=st.none() | COUNT, key=KEY, step=TEXT,
    type=TEXT, message=TEXT, attempts=COUNT, cause=st.none() | TEXT, input=st.binary() | TEXT.map(str.encode),
    input_size=COUNT, partial_results=st.none() | st.dictionaries(TEXT, JSON), redrives=st.integers(0, 1_000_000),
    state=st.sampled_from(["waiting", "claimed", "resolved", "parked"]), started_at=TIME, failed_at=TIME,
    group=st.none() | TEXT, header=st.none() | TEXT, revision=st.none() | COUNT,
)  # fmt: skip


@given(LETTER)
def test_a_letter_is_the_same_after_encoding_and_decoding(one):
    """Whatever its input, key and results are; in one line."""
    encoded = encode_letter(one)
    assert decode_letter(encoded) == one
    assert b"\n" not in encoded
    assert encoded == encode_json(as_document(one))


def test_a_number_beyond_64_bits_keeps_its_digits():
    """Keys come from clients."""
    one = letter(key=2**70, partial_results={"n": 2**70})
    assert decode_letter(encode_letter(one)) == one


def test_text_that_is_not_unicode_becomes_escapes():
    """A log takes every letter."""
    found = decode_letter(encode_letter(letter(message="no \ud800", partial_results={"a": "\ud800"})))
    assert found.message in ("no \ud800", "no \\ud800")
    assert found.partial_results is not None


def test_fields_that_a_service_adds_are_ignored():
    """`GET /dead-letters/{id}` adds the history."""
    one = letter(input=b"{}", input_size=2)
    assert from_document(as_document(one) | {"attempts": [], "edits": []}) == one


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "x"}, "invalid id of a dead letter: 'x'"),
        ({"input": {"size": 1}}, "input: expected the field text or base64"),
        ({"input": {"size": 1, "base64": "?"}}, "base64 is invalid"),
        ({"state": "lost"}, "state: expected one of waiting"),
        ({"seq": "1"}, r"Expected `int`, got `str` - at `\$\.seq`"),
        ({"seq": 2**63}, r"Expected `int` <= 9223372036854775807 - at `\$\.seq`"),
        ({"redrives": -5}, r"Expected `int` >= 0 - at `\$\.redrives`"),
        ({"redrives": 2**63 - 1}, r"<= 1000000 - at `\$\.redrives`"),
        ({"part": 2**70}, r"at `\$\.part`"),
        ({"input": {"size": -1, "text": ""}}, r"at `\$\.input\.size`"),
        ({"error": {"step": "s", "type": "T", "message": "m", "attempts": 2**64}}, r"at `\$\.error\.attempts`"),
        ({"failedAt": "2020-01-01T00:00:00"}, "failed_at: expected a time with a zone"),
    ],
)
def test_a_document_that_is_not_a_letter_is_refused_with_the_reason(change, reason):
    """Imports report it with the line."""
    document = json.loads(encode_letter(letter())) | change
    with pytest.raises(ValueError, match=reason):
        from_document(document)


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b"1"])
def test_data_that_is_not_a_document_is_refused(data):
    """Also data that would need a deep stack."""
    with pytest.raises(ValueError, match=r"not JSON|nested too deeply|not a dead letter"):
        decode_letter(data)
