"""Virtual time: what it waits for, and what it does not."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from laws.virtual import quiet
from penstock import Flow, Service, from_iterable, testing
from penstock.results import DiscardResults
from penstock.runtime import Summary
from penstock.sinks import FileSink
from penstock.testing import run


def test_no_time_passes_while_a_thread_works() -> None:
    """A timer that is set beside it does not ring before it has returned."""

    async def main() -> tuple[str, float]:
        async with asyncio.timeout(1):
            await asyncio.to_thread(time.sleep, 0.05)
        return "returned", asyncio.get_running_loop().time()

    assert run(main()) == ("returned", 0)


def test_flows_with_files_and_blocking_services_run_in_virtual_time(tmp_path: Path) -> None:
    """And so do their letters in SQLite; the waits between take no time."""

    def halve(value: int) -> float:
        time.sleep(0.01)  # it blocks, as services do that need a thread
        return 2 / value

    async def main() -> tuple[Summary, float]:
        flow = Flow("f").throttle(0.1).map_async(Service("halve", halve, blocking=True))
        flow = flow.to(FileSink(tmp_path / "out.ndjson")).dead_letters(f"sqlite:///{tmp_path}/letters.db")
        summary = await flow.start(from_iterable([1, 0, 2]), DiscardResults()).finished
        return summary, asyncio.get_running_loop().time()

    summary, seconds = quiet(main())
    assert (summary.ok, summary.failed) == (2, 1)
    assert (tmp_path / "out.ndjson").read_text() == "2.0\n1.0\n"
    assert 20 <= seconds < 21


def test_time_goes_on_without_a_thread_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its patience is spent once, not for each timer."""
    monkeypatch.setattr(testing, "THREAD_TIMEOUT", 0.5)
    may_end = threading.Event()

    async def main() -> float:
        working = asyncio.ensure_future(asyncio.to_thread(may_end.wait))
        began = time.monotonic()
        for _ in range(50):
            await asyncio.sleep(1)
        took = time.monotonic() - began
        may_end.set()
        await working
        return took

    assert run(main()) < 10  # 25 s if it were spent for each


def test_letters_are_stored_in_no_time(tmp_path: Path) -> None:
    """While they are, the clock stands still for whoever else has set a timer."""

    async def main() -> float:
        ticking = asyncio.ensure_future(asyncio.sleep(60))
        flow = Flow("f").map(str.upper).dead_letters(f"sqlite:///{tmp_path}/letters.db")
        await flow.start(from_iterable([1, 2]), DiscardResults()).finished
        ticking.cancel()
        return asyncio.get_running_loop().time()

    assert quiet(main()) < 1
