"""Quantities: what people write is what is counted, and what is shown reads as the same again."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.flowfile import Diagnostics, SourceLocation, node_of, show_duration, show_rate, show_size
from penstock.flowfile.field_types import Duration, Percentage, Rate, Size
from penstock.flowfile.quantities import read_duration, read_rate, read_size, show_percentage

HERE = SourceLocation("here", 1, 1)
AMOUNTS = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9})?", fullmatch=True, alphabet="0123456789.")
FLOATS = st.floats(0, allow_nan=False, allow_infinity=False)


def read(shape, value):
    mistakes = Diagnostics()
    found = shape.read(node_of(value, HERE), mistakes)
    assert not list(mistakes)
    return found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2.0), ("1m", 60.0), ("1h30m", 5400.0), ("2d", 172800.0), ("1.5s", 1.5), ("0.1ms", 0.0001)],
)
def test_a_duration_is_the_sum_of_its_parts(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "s", "1m1h", "2 s", "-1s", "1e3s", "2s\n", "1s1s", "٣s", "1y"])
def test_what_is_no_duration_is_none(text):
    assert read_duration(text) is None


@pytest.mark.parametrize(
    ("text", "bytes"), [("16MiB", 16 * 1024**2), ("64kB", 64_000), ("512B", 512), ("1GB", 10**9), ("3KiB", 3072)]
)
def test_a_size_is_binary_or_decimal_as_its_unit_says(text, bytes):
    assert read_size(text) == bytes


@pytest.mark.parametrize("text", ["16", "16mb", "1.5MiB", "64KB", "16MiB\n", "B"])
def test_what_is_no_size_is_none(text):
    assert read_size(text) is None


@pytest.mark.parametrize(("text", "rate"), [("10/s", 10.0), ("600/m", 10.0), ("5000/h", 5000 / 3600), ("0.5/s", 0.5)])
def test_a_rate_is_counted_by_the_second(text, rate):
    assert read_rate(text) == rate


@pytest.mark.parametrize("text", ["10", "10/d", "/s", "10 / s", "10/s\n"])
def test_what_is_no_rate_is_none(text):
    assert read_rate(text) is None


@given(st.one_of(FLOATS, st.integers(0, 10**7).map(lambda milliseconds: milliseconds / 1000)))
@example(1e300)
@example(5e-324)
@example(0.1 + 0.2)
@example(10.0**12)
def test_a_shown_duration_reads_as_the_same(seconds):
    assert read(Duration(min=0), show_duration(seconds)) == seconds


@given(st.integers(0, 10**30) | st.integers(0, 10**6).map(lambda count: count * 1024))
def test_a_shown_size_reads_as_the_same(bytes):
    assert read(Size(min=0), show_size(bytes)) == bytes


@given(st.one_of(FLOATS, st.tuples(AMOUNTS, st.sampled_from("smh")).map(lambda parts: read_rate("/".join(parts)))))
def test_a_shown_rate_reads_as_the_same(rate):
    assert read(Rate(min=0), show_rate(rate)) == rate


@given(st.floats(0, 1) | st.integers(0, 100_000).map(lambda part: part / 100_000))
def test_a_shown_percentage_reads_as_the_same(part):
    assert read(Percentage(min=0), show_percentage(part)) == part


@pytest.mark.parametrize(("part", "text"), [(0.8, "80%"), (1.0, "100%"), (0.125, "12.5%"), (1e-300, 1e-300)])
def test_percentages_are_shown_if_they_are_exact(part, text):
    assert show_percentage(part) == text


@pytest.mark.parametrize("text", ["80 percent", "101%", "-1%", "80%%", 1.5, 80, 0])
def test_what_is_no_percentage_is_refused(text):
    mistakes = Diagnostics()
    Percentage().read(node_of(text, HERE), mistakes)
    assert len(list(mistakes)) == 1


@given(st.lists(AMOUNTS, min_size=4, max_size=4))
def test_a_duration_is_exact(amounts):
    """Parts are added as fractions: the one rounding is that of the sum."""
    days, hours, minutes, seconds = amounts
    exact = Fraction(days) * 86400 + Fraction(hours) * 3600 + Fraction(minutes) * 60 + Fraction(seconds)
    assert read_duration(f"{days}d{hours}h{minutes}m{seconds}s") == float(exact)


@pytest.mark.parametrize(
    ("number", "text"),
    [(5400, "1h30m"), (2, "2s"), (0.25, "250ms"), (90.5, "1m30.5s"), (0, "0s"), (86400, "1d"), (0.0005, "0.5ms")],
)
def test_durations_are_shown_in_their_largest_units(number, text):
    assert show_duration(number) == text


@pytest.mark.parametrize(("number", "text"), [(2**24, "16MiB"), (64_000, "64kB"), (512, "512B"), (0, "0B")])
def test_sizes_are_shown_in_the_largest_unit_that_divides_them(number, text):
    assert show_size(number) == text


@pytest.mark.parametrize(("number", "text"), [(10.0, "10/s"), (5000 / 3600, "5000/h"), (0.5, "30/m"), (1 / 60, "1/m")])
def test_rates_are_shown_by_the_period_that_makes_them_short(number, text):
    assert show_rate(number) == text


@pytest.mark.parametrize(
    ("shape", "text", "meant"),
    [
        (Duration(), "5 minutes", "5m"),
        (Duration(), "1h 30min", "1h30m"),
        (Duration(), "2S", None),
        (Size(), "16mib", "16MiB"),
        (Size(), "64 KB", "64kB"),
        (Size(), "16M", "16MiB"),
        (Rate(), "10 per second", "10/s"),
        (Rate(), "600 / min", "600/m"),
        (Rate(), "fast", None),
    ],
)
def test_a_unit_that_is_spelled_differently_is_understood_but_not_taken(shape, text, meant):
    mistakes = Diagnostics()
    shape.read(node_of(text, HERE), mistakes)
    assert [mistake.hint for mistake in mistakes] == [f'did you mean "{meant}"?' if meant else None]
