"""Virtual time: what it waits for, and what it does not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from laws.virtual import quiet
from penstock import Flow, Service, from_iterable
from penstock.outlets import FileOutlet
from penstock.runtime import Summary
from penstock.sinks import Discard
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
        time.sleep(0.01)
        return 2 / value

    async def main() -> tuple[Summary, float]:
        flow = Flow("f").throttle(0.1).map_async(Service("halve", halve, blocking=True))
        flow = flow.to(FileOutlet(tmp_path / "out.ndjson")).dead_letters(f"sqlite:///{tmp_path}/letters.db")
        summary = await flow.start(from_iterable([1, 0, 2]), Discard()).finished
        return summary, asyncio.get_running_loop().time()

    summary, seconds = quiet(main())
    assert (summary.ok, summary.failed) == (2, 1)
    assert (tmp_path / "out.ndjson").read_text() == "2.0\n1.0\n"
    assert 20 <= seconds < 21
