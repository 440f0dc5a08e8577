"""What stands in for the world around a run that is planned: its outlets, its store, its reader."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from laws.plans import Plan, StepPlan, Value
from laws.virtual import DAY
from penstock.deadletters import DeadLetter, MemoryStore
from penstock.errors import ReaderDisconnected, StoreError
from penstock.results import ResultStream


class Refused(Exception):
    """What the functions of a plan raise."""


class ForGood(Refused):
    """What another attempt would not help."""

    retryable = False


class Spy:
    """What the parts of a run did, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.calls = 0
        self.under_way = 0
        self.shelves: list[Shelf] = []


class Shelf:
    """An outlet that takes what a step's fates say, and knows whether it is used as outlets are to be."""

    def __init__(self, step: StepPlan, spy: Spy) -> None:
        self.name = ""
        self.kept: list[Value] = []
        self.open_now = False
        self.misused: list[str] = []
        self._step = step
        self._spy = spy
        self._busy = False
        self._opened = 0

    async def open(self) -> None:
        async with self._alone():
            self._opened += 1
            await asyncio.sleep(0.1)
            if self._opened % 2 and self._step.fates[0] == "flaky":
                raise Refused("the shelf is locked")
            self.open_now = True

    async def write(self, values: Sequence[Value]) -> list[Exception | None] | None:
        async with self._alone():
            if not self.open_now:
                self.misused.append("written to before it was opened")
            fates = [self._step.fate(value) for value in values]
            for fate, seconds in (("slow", 1.0), ("hang", DAY)):
                if fate in fates:
                    await asyncio.sleep(seconds)
            if "refuse" in fates and len(values) % 2:
                raise Refused("the shelf takes none of these")
            self.kept += [value for value, fate in zip(values, fates, strict=True) if fate not in ("fail", "refuse")]
            return [Refused("not this") if fate in ("fail", "refuse") else None for fate in fates]

    async def aclose(self) -> None:
        async with self._alone():
            if not self.open_now:
                self.misused.append("closed before it was opened")
            self.open_now = False

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._busy:
            self.misused.append("called while another call was under way")
        self._busy = True
        self._spy.under_way += 1
        try:
            yield
        finally:
            self._busy = False
            self._spy.under_way -= 1


class KeptStore(MemoryStore):
    """Letters in memory that take a while, or that cannot be stored at first."""

    def __init__(self, *, fails: int = 0, seconds: float = 0.0) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.fails = fails
        self.failed = 0
        self.seconds = seconds
        self.timeout = 4.0

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        await asyncio.sleep(self.seconds)
        if self.failed < self.fails:
            self.failed += 1
            raise StoreError("the store is down")
        await super().add(letters)
        self.ids |= {letter.id for letter in letters}


def store_of(plan: Plan) -> KeptStore | None:
    match plan.store:
        case None:
            return None
        case "memory":
            return KeptStore()
        case "down":
            return KeptStore(fails=2)
        case "slow":
            return KeptStore(seconds=1.5)
        case other:
            raise ValueError(other)


class Reader:
    """Whoever takes the results, at its own pace; it may leave."""

    def __init__(self, plan: Plan, spy: Spy, store: KeptStore | None) -> None:
        self._plan = plan
        self._spy = spy
        self._store = store
        self.records: list[Value] = []
        self.told: set[int] = set()
        self.gone = False
        self.look: Callable[[Any], None] = lambda _: None

    async def write(self, data: bytes) -> None:
        """The reader of `Lines`."""
        records = [msgspec.json.decode(line) for line in data.splitlines()]
        self._before(records)
        await asyncio.sleep(self._plan.pace)
        if self.gone:
            raise ReaderDisconnected
        self._take(records)

    async def ask(self, sink: ResultStream) -> None:
        """The reader of `ResultStream`."""
        while (result := await sink.next()) is not None:
            record: Value = {"ok": result.ok, "seq": result.seq, "value": result.value if result.ok else None}
            if not result.ok and result.dead_letter is not None:
                record["deadLetter"] = result.dead_letter
            self._take([record])
            await asyncio.sleep(self._plan.pace)

    def _before(self, records: list[Value]) -> None:
        self.look(None)
        for record in records:
            if self._store is not None and not record["ok"]:
                self._spy.events.append(("told", record["deadLetter"] in self._store.ids))

    def _take(self, records: list[Value]) -> None:
        self.records += records
        self.told |= {record["seq"] for record in records}
