"""A dead letter: a failed element, with all that is needed to understand it and to run it again."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct


class Letter(Struct, frozen=True, kw_only=True):
    """One failed element, as it is stored."""

    id: str
    """A UUID of version 7, so that ids sort by the time at which they were made."""
    flow: str
    run: str
    seq: int
    part: int | None = None
    key: str | int | float | None = None
    step: str
    type: str
    """The name of the error's class."""
    message: str
    attempts: int = 1
    cause: str | None = None
    input: bytes
    """What came in, as it came; when it was too large, its beginning."""
    input_size: int
    """How many bytes came in; more than `input` has when only the beginning was kept."""
    found: dict[str, Any] | None = None
    """What earlier steps had found before this one failed."""
    state: str = "waiting"
    started_at: datetime
    """When the run started."""
    failed_at: datetime
    """When the letter was written."""


def new_id() -> str:
    """A new UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then chance."""
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    number = (number & ~(0xF << 76)) | (0x7 << 76)
    number = (number & ~(0x3 << 62)) | (0x2 << 62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
