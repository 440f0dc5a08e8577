"""No test of a command leaves a process behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from commands.killing import STARTED
from waiting import end


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    while STARTED:
        end(STARTED.pop())
