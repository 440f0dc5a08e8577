"""Input in chunks, as it may come through a socket or from a file."""

from __future__ import annotations


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Data in chunks whose sizes are taken in turn."""
    chunks: list[bytes] = []
    while data:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[:size])
        data = data[size:]
    return chunks
