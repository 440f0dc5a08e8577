"""What ends in an error when nobody waits for it any more: it changes nothing, and is no complaint of asyncio."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.virtual import within
from penstock import Flow, Service, from_iterable
from penstock.deadletters import DeadLetter, MemoryStore
from penstock.errors import StoreError
from penstock.results import DiscardResults
from penstock.runtime import Supervisor
from penstock.sinks import Sink
from penstock.testing import run

LATE = 100.0


async def deaf() -> None:
    """Hear no cancelling, and break long after it."""
    waiting = asyncio.ensure_future(asyncio.sleep(LATE))
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            continue
    raise StoreError("too late")


class Deaf(MemoryStore):
    """Breaks late at one of its three: `open`, `add`, `aclose`."""

    timeout = 1.0

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    async def open(self) -> None:
        await self._do("open")

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        await self._do("add")

    async def aclose(self) -> None:
        await self._do("aclose")

    async def _do(self, what: str) -> None:
        if what == self._at:
            await deaf()


async def full() -> None:
    """Break in the turn in which the run is aborted."""
    await asyncio.sleep(1)
    raise StoreError("full")


async def torn() -> None:
    """Break while being cancelled."""
    try:
        await asyncio.sleep(LATE)
    finally:
        raise StoreError("torn")


class Unwilling(Sink):
    """Never takes a value."""

    name = "unwilling"

    def __init__(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._write = write

    async def open(self) -> None:
        pass

    async def write(self, values: Sequence[Any]) -> None:
        await self._write()

    async def aclose(self) -> None:
        pass


class Restless:
    """A call of a service that does not come to rest."""

    async def __call__(self, value: Any) -> Any:
        return value

    async def on_idle(self) -> None:
        await deaf()


async def aborted(flow: Flow[Any]) -> None:
    """A run that is aborted after a second."""
    started = flow.start(from_iterable([0]), DiscardResults())
    await asyncio.sleep(1)
    started.abort()
    await started.finished


async def shut_down(flow: Flow[Any]) -> None:
    """A service that stops."""
    supervisor = Supervisor()
    await supervisor.start(flow, from_iterable([0]), DiscardResults()).finished
    await supervisor.shut_down(grace=1)


FAILING = Flow("f").map(lambda n: 1 // n)
WAYS: dict[str, tuple[Callable[[], Coroutine[Any, Any, None]], list[str]]] = {
    "a call of an outlet": (
        lambda: aborted(Flow("f").to(Unwilling(deaf))),
        ["sink.call_not_cancelled", "sink.close_failed"],
    ),
    "a write that breaks": (lambda: aborted(Flow("f").to(Unwilling(torn))), []),
    "a write that broke just now": (lambda: aborted(Flow("f").to(Unwilling(full))), []),
    "a service at rest": (
        lambda: aborted(Flow("f").enrich(found=Service("s", Restless()))),
        ["service.idle_hook_failed"],
    ),
    "an opening": (lambda: aborted(FAILING.dead_letters(Deaf("open"))), []),
    "a commit": (
        lambda: aborted(FAILING.dead_letters(Deaf("add"))),
        ["store.write_uncertain", "store.write_finished_late"],
    ),
    "a closing": (lambda: shut_down(FAILING.dead_letters(Deaf("aclose"))), ["store.close_failed"]),
}


@pytest.mark.parametrize(("way", "said"), WAYS.values(), ids=WAYS)
def test_a_late_error_is_no_complaint_of_asyncio(way: Callable[[], Coroutine[Any, Any, None]], said: list[str]) -> None:
    """That the wait was given up is told at once, in our words; no other trouble follows."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await way()
        await asyncio.sleep(2 * LATE)
        gc.collect()

    with capture_logs() as logs:
        run(within(10 * LATE, main()))

    assert complaints == []
    assert [entry["event"] for entry in logs if entry["log_level"] != "info"] == said


@pytest.mark.parametrize(("breaks", "stored"), [(False, True), (True, False)])
def test_the_log_says_in_the_end_whether_uncertain_letters_are_stored(breaks: bool, stored: bool) -> None:
    """Who was told that nobody knows is told again when it is known."""

    class Slow(MemoryStore):
        timeout = 1.0

        async def add(self, letters: Sequence[DeadLetter]) -> None:
            await asyncio.sleep(LATE)
            if breaks:
                raise StoreError("the disk is full")
            await super().add(letters)

    async def main() -> None:
        await aborted(FAILING.dead_letters(Slow()))
        await asyncio.sleep(2 * LATE)

    with capture_logs() as logs:
        run(within(10 * LATE, main()))

    told = [(entry["event"], entry["letters"], entry.get("stored")) for entry in logs if entry["event"] != "run.ended"]
    assert told == [("store.write_uncertain", 1, None), ("store.write_finished_late", 1, stored)]
