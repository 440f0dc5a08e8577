"""The orders that the benchmarks send: about 180 bytes each, made before the clock starts."""

from __future__ import annotations

CHUNK = 64 * 1024
"""Bytes of orders in one HTTP chunk; what curl and node's fetch send is of this size."""

LINE = (
    b'{"orderId":%d,"customer":"cust-%06d","items":[{"sku":"A-1001","quantity":2}],'
    b'"currency":"EUR","note":"leave it at the door, please","priority":3,"express":true}\n'
)


def ids(count: int, failing: bool) -> list[int]:
    """Order ids from 1: all of them, of which every third fails, or only those that succeed."""
    if failing:
        return list(range(1, count + 1))
    return [3 * (number // 2) + 1 + number % 2 for number in range(count)]


def failures(count: int, failing: bool) -> int:
    """How many of the orders fail."""
    return count // 3 if failing else 0


def body(count: int, failing: bool) -> bytes:
    """Orders, one a line."""
    return b"".join([LINE % (id, id) for id in ids(count, failing)])


def frames(body: bytes) -> list[bytes]:
    """A body in HTTP chunks, the last one included."""
    parts = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]
