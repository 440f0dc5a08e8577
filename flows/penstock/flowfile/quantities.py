"""Convert durations, sizes and rates from text to numbers and back: `1h30m`, `16MiB`, `600/m`.

Each quantity can also be written as a number: of seconds, of bytes, of elements per second. A text made from a number
reads as exactly the same number.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_AMOUNT = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SECONDS = {"d": Fraction(86400), "h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
_BYTES = {
    "GiB": 1024**3,
    "MiB": 1024**2,
    "KiB": 1024,
    "GB": 1000**3,
    "MB": 1000**2,
    "kB": 1000,
    "B": 1,
}
_PERIODS = {"s": 1, "m": 60, "h": 3600}

_MAX_SECONDS = 10.0**12
"""Longer durations are shown as numbers; 31,688 years."""

DURATION = f"(?=[0-9])(?:{_AMOUNT}d)?(?:{_AMOUNT}h)?(?:{_AMOUNT}m)?(?:{_AMOUNT}s)?(?:{_AMOUNT}ms)?"
"""The pattern of a duration, in the common syntax of Python and JSON Schema. It has to match the complete text."""
SIZE = f"[0-9]{{1,15}}(?:{'|'.join(_BYTES)})"
"""The pattern of a size."""
RATE = f"{_AMOUNT}/(?:{'|'.join(_PERIODS)})"
"""The pattern of a rate."""

PERCENTAGE = r"(?:100(?:\.0{1,9})?|[0-9]{1,2}(?:\.[0-9]{1,9})?)%"
"""The pattern of a percentage up to 100%."""

_PART = re.compile(f"({_AMOUNT})([a-z]+)")
_SPELLINGS = {
    "d": ("day", "days"),
    "h": ("hour", "hours", "hr", "hrs"),
    "m": ("minute", "minutes", "min", "mins"),
    "s": ("second", "seconds", "sec", "secs"),
    "ms": ("millisecond", "milliseconds", "msec", "msecs", "millis"),
    **{unit: (unit.lower(), unit.upper()) for unit in _BYTES},
    "MiB": ("mib", "MIB", "Mi", "M"),
    "GiB": ("gib", "GIB", "Gi", "G"),
    "KiB": ("kib", "KIB", "Ki", "K", "k"),
}
_UNITS = {spelled: unit for unit, others in _SPELLINGS.items() for spelled in others}


def read_duration(text: str) -> float | None:
    """Return the seconds of a duration such as `250ms`, `2s` or `1h30m`; None for other texts."""
    if not re.fullmatch(DURATION, text):
        return None
    return float(sum(Fraction(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text)))


def read_size(text: str) -> int | None:
    """Return the bytes of a size such as `16MiB` (times 1024²) or `64kB` (times 1000); None for other texts."""
    if not re.fullmatch(SIZE, text):
        return None
    amount = text.rstrip("BkMGKi")
    return int(amount) * _BYTES[text[len(amount) :]]


def read_rate(text: str) -> float | None:
    """Return the elements per second of a rate such as `10/s`, `600/m` or `5000/h`; None for other texts."""
    if not re.fullmatch(RATE, text):
        return None
    amount, _, period = text.partition("/")
    return float(Fraction(amount) / _PERIODS[period])


def read_percentage(text: str) -> float | None:
    """Return the part of 1 that a percentage such as `80%` is; None for other texts."""
    return float(Fraction(text[:-1]) / 100) if re.fullmatch(PERCENTAGE, text) else None


def show_percentage(part: float) -> str | float:
    """Return a part of 1 as a percentage: `80%`; the number itself if no text is exact."""
    text = f"{_plain(Decimal(repr(float(part))) * 100)}%"
    return text if read_percentage(text) == part else part


def show_duration(seconds: float) -> str | float:
    """Return a duration in the largest units that fit: `1h30m`, `250ms`; the number itself if no text is exact."""
    if not 0 <= seconds < _MAX_SECONDS:
        return seconds
    exact = Decimal(repr(float(seconds)))
    if 0 < exact < 1:
        return _if_exact(f"{_plain(exact * 1000)}ms", seconds)
    parts = ""
    for unit in ("d", "h", "m"):
        count, exact = divmod(exact, int(_SECONDS[unit]))
        parts += f"{_plain(count)}{unit}" if count else ""
    parts += f"{_plain(exact)}s" if exact or not parts else ""
    return _if_exact(parts, seconds)


def show_size(bytes: int) -> str | int:
    """Return a size in the largest unit that divides it: `16MiB`, `64kB`; the number itself if it is too large."""
    unit = next(unit for unit, factor in _BYTES.items() if bytes % factor == 0 and (bytes or unit == "B"))
    text = f"{bytes // _BYTES[unit]}{unit}"
    return text if read_size(text) == bytes else bytes


def show_rate(per_second: float) -> str | float:
    """Return a rate per second, minute or hour as a short number: `10/s`, `5000/h`; the number itself if not exact."""
    for digits in (0, 3, 9):
        for period, seconds in _PERIODS.items():
            amount = round(Decimal(repr(float(per_second))) * seconds, digits) if per_second < 10**9 else Decimal(0)
            text = f"{_plain(amount)}/{period}"
            if read_rate(text) == per_second:
                return text
    return per_second


def nearest_quantity(text: str, pattern: str) -> str | None:
    """Return the valid text for other spellings of units, such as `5 minutes` or `16mib`; None if there is none."""
    compact = re.sub(r"\s+|,| and ", "", text)
    spelled = re.sub(r"[a-zA-Z]+", lambda word: _UNITS.get(word[0], word[0]), compact.replace("per", "/"))
    return next((meant for meant in (compact, spelled) if re.fullmatch(pattern, meant)), None)


def _if_exact(text: str, seconds: float) -> str | float:
    return text if read_duration(text) == seconds else seconds


def _plain(number: Decimal) -> str:
    """Format a decimal without an exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
