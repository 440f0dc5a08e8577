"""Both event loops: the standard one, and uvloop where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest

from waiting import HANG_SECONDS

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:  # it has no wheels for some platforms
    new_uvloop = None

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine in an event loop. No task may be left, and no error in a callback."""
    if request.param == "uvloop" and new_uvloop is None:
        pytest.skip("uvloop is not installed")
    errors: list[dict[str, Any]] = []

    async def watched(work: Coroutine[Any, Any, Any]) -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(HANG_SECONDS):
            result = await work
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with asyncio.Runner(loop_factory=new_uvloop if request.param == "uvloop" else None) as runner:
        yield lambda work: runner.run(watched(work))
    assert not errors
