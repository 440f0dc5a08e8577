"""What plays the services and outlets of a flow in a test: its rules first, else the real function, in virtual time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from penstock.deadletters import DeadLetter, MemoryStore
from penstock.errors import ElementError, ReaderDisconnected, StoreError, describe
from penstock.flowtests.models import StoreOutage, StubRule
from penstock.flowtests.rules import RuleSet
from penstock.flowtests.tracing import ElementRecorder, Trace, format_value, to_plain


class UnstubbedCall(ElementError):
    """A call that would leave the machine, for which the test has no rule."""

    retryable = False


class Fake:
    """What is the same for all that is played: the rules, the calls counted, the trace."""

    def __init__(self, title: str, rules: Sequence[StubRule], trace: Trace) -> None:
        self.title = title
        self.rules = RuleSet(rules)
        self.under_way = 0
        self.most = 0
        """The most calls that were under way at once."""
        self.trace = trace

    @property
    def calls(self) -> int:
        """How often it was called."""
        return self.rules.calls

    @contextmanager
    def call(self, what: str) -> Generator[None]:
        """One call, from its beginning to its end, however it ends."""
        self.rules.begin()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.trace.add(f"{self.title}: call for {what}")
        try:
            yield
        except asyncio.CancelledError:
            self.trace.add(f"{self.title}: call for {what} was cancelled")
            raise
        except Exception as error:
            self.trace.add(f"{self.title}: raised {type(error).__name__} for {what}: {describe(error)}")
            raise
        else:
            self.trace.add(f"{self.title}: answered for {what}")
        finally:
            self.under_way -= 1

    def decide(self, values: Sequence[Any]) -> list[StubRule | None]:
        """The rules for the values of a call."""
        return [self.rules.decide(value, self.trace.now) for value in values]

    async def wait(self, decided: Sequence[StubRule | None]) -> None:
        """Let the time pass that a call takes: that of its slowest value."""
        if seconds := max((rule.delay for rule in decided if rule is not None), default=0.0):
            await asyncio.sleep(seconds)
        if any(rule is not None and rule.action == "hangs" for rule in decided):
            await asyncio.Event().wait()


class FakeService(Fake):
    """The function of a service in a test. `real` is its own; None for one that would leave the machine."""

    def __init__(
        self, title: str, rules: Sequence[StubRule], trace: Trace, real: Callable[[Any], Any] | None, *, many: bool
    ) -> None:
        super().__init__(title, rules, trace)
        self.unscripted: list[str] = []
        """What it was asked about without a rule for it."""
        self._real = real
        self._many = many

    async def __call__(self, value: Any) -> Any:
        """The answer for a value, or for a list of them."""
        with self.call(self._shown(value)):
            return await self._answers(value) if self._many else await self._answer(value)

    async def on_idle(self) -> None:
        """Call the idle hook of the real function, if it has one."""
        if (on_idle := getattr(self._real, "on_idle", None)) is not None:
            await on_idle()

    async def _answer(self, value: Any) -> Any:
        (rule,) = decided = self.decide([value])
        await self.wait(decided)
        return await self._ask(value, [value]) if _is_real(rule) else self._respond(rule, value)

    async def _answers(self, values: list[Any]) -> list[Any]:
        decided = self.decide(values)
        await self.wait(decided)
        if (failure := self._failure_of_all(decided)) is not None:
            raise failure
        answers = [self._result(rule, value) for rule, value in zip(decided, values, strict=True)]
        left = [place for place, rule in enumerate(decided) if _is_real(rule)]
        if left:
            asked = [values[place] for place in left]
            for place, answer in zip(left, await self._ask(asked, asked), strict=True):
                answers[place] = answer
        return answers

    async def _ask(self, question: Any, values: Sequence[Any]) -> Any:
        """What the real function answers."""
        if self._real is None:
            self.unscripted += [self.trace.name_of(value) for value in values]
            raise UnstubbedCall(f"{self.title} is asked over HTTP, and no rule of the test fits this call")
        answer = self._real(question)
        return await answer if inspect.isawaitable(answer) else answer

    def _failure_of_all(self, decided: Sequence[StubRule | None]) -> Exception | None:
        """Return the error of a call for many values that fails, and is repeated, as a unit.

        Its rule depends on no value.
        """
        first = decided[0]
        if first is None or first.by_value or any(rule is not first for rule in decided):
            return None
        return None if first.raises is None else first.raises.make(self.title)

    def _respond(self, rule: StubRule | None, value: Any) -> Any:
        """Return the response of a rule, or raise its error."""
        result = self._result(rule, value)
        if isinstance(result, Exception):
            raise result
        return result

    def _result(self, rule: StubRule | None, value: Any) -> Any:
        """Return the response of a rule, or its error."""
        if rule is None or rule.action is None:
            return None
        return rule.respond(to_plain(value)) if rule.raises is None else rule.raises.make(self.title)

    def _shown(self, value: Any) -> str:
        return ", ".join(map(self.trace.name_of, value)) if self._many else self.trace.name_of(value)


class FakeSink(Fake):
    """An outlet in a test: it keeps what it is handed, and refuses what its rules say."""

    def __init__(self, title: str, name: str, rules: Sequence[StubRule], trace: Trace) -> None:
        super().__init__(title, rules, trace)
        self.kept: list[Any] = []
        self.opened = False
        self.name = name

    async def open(self) -> None:
        """Get ready for writes."""
        self.opened = True

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None]:
        """Take values, or refuse some."""
        with self.call(", ".join(map(self.trace.name_of, values))):
            decided = self.decide(values)
            await self.wait(decided)
            answers: list[Exception | None] = []
            for rule, value in zip(decided, values, strict=True):
                refused = None if rule is None or rule.raises is None else rule.raises.make(self.title)
                answers.append(refused)
                if refused is None:
                    self.kept.append(to_plain(value))
            return answers

    async def aclose(self) -> None:
        """Let go of everything."""
        self.opened = False


def _is_real(rule: StubRule | None) -> bool:
    """Return whether the real function is to be called."""
    return rule is None or rule.action is None


class FailingStore(MemoryStore):
    """Keeps letters, except while it is down."""

    def __init__(self, downtimes: Sequence[StoreOutage], trace: Trace) -> None:
        super().__init__()
        self._downtimes = downtimes
        self._trace = trace

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters; all or none."""
        now = self._trace.now
        if any(one.since <= now and (one.until is None or now < one.until) for one in self._downtimes):
            self._trace.add("dead letters: the store is down")
            raise StoreError("the store is down")
        await super().add(letters)
        names = ", ".join(format_value(f"#{letter.seq}" if letter.key is None else letter.key) for letter in letters)
        self._trace.add(f"dead letters: stored {names}")


class FakeClient:
    """Reads results, `delay` seconds for each."""

    def __init__(self, delay: float, register: ElementRecorder, trace: Trace) -> None:
        self.records: list[dict[str, Any]] = []
        """What it was told, in the order in which it came."""
        self.gone = False
        self._delay = delay
        self._register = register
        self._trace = trace

    async def write(self, data: bytes) -> None:
        """Take lines. Those of one write count when all of it is taken, as its elements are settled then."""
        lines = data.splitlines()
        if self._delay:
            await asyncio.sleep(self._delay * len(lines))
        if self.gone:
            raise ReaderDisconnected
        for line in lines:
            self._take(msgspec.json.decode(line))

    def _take(self, record: dict[str, Any]) -> None:
        label = self._register.label(self._register.elements[record["seq"]])
        part = f", part {record['part']}" if "part" in record else ""
        if record["ok"]:
            self._trace.add(f"ok: {label}{part}")
        else:
            error = record["error"]
            self._trace.add(f"failed: {label}{part} at {error['step']}, {error['type']}: {error['message']}")
        self.records.append(record)
