"""The processes of these tests run in uvloop's event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def on_uvloop() -> Iterator[None]:
    """Set the event loop of the processes that a module starts."""
    pytest.importorskip("uvloop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_EVENT_LOOP", "uvloop")
        yield
