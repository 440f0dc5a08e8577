"""The header with which a deadline is forwarded: as seconds (`1.5s`), or as `Grpc-Timeout` (`1500m`).

The format of gRPC is an integer of at most 8 digits and a unit: H, M, S, m (ms), u (µs) or n (ns); see "gRPC over
HTTP2", section Requests.
"""

from __future__ import annotations

import re

GRPC_TIMEOUT = "grpc-timeout"
"""The header that has the format of gRPC, in lower case."""

_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def parse_grpc_timeout(text: str) -> float | None:
    """Return the seconds of a timeout in the format of gRPC; None if it is not valid.

    >>> parse_grpc_timeout("1500m"), parse_grpc_timeout("2s")
    (1.5, None)
    """
    match = _GRPC.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def format_deadline(header: str, seconds: float) -> str:
    """Return the remaining time as the value of a header, rounded down to milliseconds, at least one.

    >>> format_deadline("Penstock-Deadline", 1.5), format_deadline("Grpc-Timeout", 1.5)
    ('1.5s', '1500m')
    """
    milliseconds = max(1, int(seconds * 1000))
    if header.lower() != GRPC_TIMEOUT:
        return f"{milliseconds // 1000}.{milliseconds % 1000:03}".rstrip("0").rstrip(".") + "s"
    if milliseconds < 10**8:
        return f"{milliseconds}m"
    return f"{min(milliseconds // 1000, 10**8 - 1)}S"
