"""Lines, split from whatever chunks they come in."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from laws.chunks import cut
from penstock.formats.ndjson_reader import LineSplitter
from penstock.formats.rejected import OversizedInput


def reference(data: bytes, limit: int) -> list[tuple[bytes, int | None]]:
    """The lines of an upload, the simple way: each with None, or with its length when it is over the limit."""
    found: list[tuple[bytes, int | None]] = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.removesuffix(b"\r")
        if line.strip():
            found.append((line, None) if len(line) <= limit else (line[: min(4096, limit)], len(line)))
    return found


LIMIT = 12

bodies = st.lists(
    st.one_of(
        st.integers(0, LIMIT + 6).map(lambda size: b"x" * size),
        st.integers(0, LIMIT + 6).map(lambda size: b" " * size),
        st.integers(0, LIMIT + 6).map(lambda size: b" " * size + b"{}"),
        st.sampled_from([b"", b"\r", b"a\rb", b"{}", b"\xef\xbb\xbf", b"\t", b"\r\r"]),
    ).flatmap(lambda line: st.sampled_from([line + b"\n", line + b"\r\n"])),
    max_size=6,
)


@settings(max_examples=400, deadline=None, print_blob=True)
@given(
    lines=bodies,
    last=st.sampled_from([b"", b"{}", b"x" * LIMIT, b"x" * (LIMIT + 1), b" ", b"{}\r"]),
    bom=st.booleans(),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
@example(lines=[], last=b"x" * LIMIT, bom=True, cuts=[1])
@example(lines=[b" " * (LIMIT + 4) + b"{}\n"], last=b"", bom=False, cuts=[1])
def test_lines_are_the_same_wherever_the_chunks_are_cut(
    lines: list[bytes], last: bytes, bom: bool, cuts: list[int]
) -> None:
    """Like splitting the whole at once: ends of both kinds, blank lines, a mark at the start, lines over the limit."""
    data = (b"\xef\xbb\xbf" if bom else b"") + b"".join(lines) + last
    splitter = LineSplitter(LIMIT)
    found = [line for chunk in cut(data, cuts) for line in splitter.feed(chunk)] + splitter.finish()

    assert [(bytes(line), line.length if isinstance(line, OversizedInput) else None) for line in found] == reference(
        data, LIMIT
    )


def test_a_splitter_keeps_no_more_than_its_limit_of_a_line() -> None:
    """However long a line is, what is kept of it stays bounded."""
    splitter = LineSplitter(LIMIT)
    for _ in range(1000):
        splitter.feed(b"x" * 1000)

    assert len(splitter._buffered) <= LIMIT + 5


def test_blank_lines_are_not_made_to_be_thrown_away() -> None:
    """A compressed body of a megabyte may hold a gigabyte of them; making them kept the event loop from all others."""
    blank = b"\r\n" * 500_000
    splitter = LineSplitter()
    assert splitter.feed(b"[1") == []
    tracemalloc.start()
    found = splitter.feed(blank)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (found, splitter.finish()) == ([b"[1"], [])
    assert peak < 3 * len(blank)


def test_a_line_limit_below_one_is_refused() -> None:
    """The message names the value."""
    with pytest.raises(ValueError, match="limit: expected at least 1 byte"):
        LineSplitter(0)
