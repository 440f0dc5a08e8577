"""Fake services, sinks, store and client for tests. Rules decide; without one, a service calls its real function."""

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
    """A call of an HTTP service for which the test has no rule."""

    retryable = False


class Fake:
    """The base of fake services and sinks: applies rules, counts calls, and traces them."""

    def __init__(self, title: str, rules: Sequence[StubRule], trace: Trace) -> None:
        self.title = title
        self.rules = RuleSet(rules)
        self.open_calls = 0
        self.peak_calls = 0
        """The maximum of concurrent calls."""
        self.trace = trace

    @property
    def calls(self) -> int:
        """Return how often it was called."""
        return self.rules.calls

    @contextmanager
    def call(self, values: str) -> Generator[None]:
        """Count and trace a call for some values, from its start to its end."""
        self.rules.begin()
        self.open_calls += 1
        self.peak_calls = max(self.peak_calls, self.open_calls)
        self.trace.add(f"{self.title}: call for {values}")
        try:
            yield
        except asyncio.CancelledError:
            self.trace.add(f"{self.title}: call for {values} was cancelled")
            raise
        except Exception as error:
            self.trace.add(f"{self.title}: raised {type(error).__name__} for {values}: {describe(error)}")
            raise
        else:
            self.trace.add(f"{self.title}: responded for {values}")
        finally:
            self.open_calls -= 1

    def decide(self, values: Sequence[Any]) -> list[StubRule | None]:
        """Return the rules for the values of a call."""
        return [self.rules.decide(value, self.trace.now) for value in values]

    async def wait(self, decided: Sequence[StubRule | None]) -> None:
        """Wait for the longest delay of the rules of a call; forever if one of them hangs."""
        if seconds := max((rule.delay for rule in decided if rule is not None), default=0.0):
            await asyncio.sleep(seconds)
        if any(rule is not None and rule.action == "hangs" for rule in decided):
            await asyncio.Event().wait()


class FakeService(Fake):
    """The function of a service in a test. `real` is its real function; None for an HTTP service."""

    def __init__(
        self, title: str, rules: Sequence[StubRule], trace: Trace, real: Callable[[Any], Any] | None, *, is_batch: bool
    ) -> None:
        super().__init__(title, rules, trace)
        self.unstubbed: list[str] = []
        """The names of the values of HTTP calls without a rule."""
        self._real = real
        self._is_batch = is_batch

    async def __call__(self, value: Any) -> Any:
        """Return the response for a value, or the responses for a list of values."""
        with self.call(self._names_of(value)):
            return await self._respond_batch(value) if self._is_batch else await self._respond_one(value)

    async def on_idle(self) -> None:
        """Call the idle hook of the real function, if it has one."""
        if (on_idle := getattr(self._real, "on_idle", None)) is not None:
            await on_idle()

    async def _respond_one(self, value: Any) -> Any:
        (rule,) = decided = self.decide([value])
        await self.wait(decided)
        return await self._call_real(value, [value]) if _calls_real(rule) else self._respond(rule, value)

    async def _respond_batch(self, values: list[Any]) -> list[Any]:
        decided = self.decide(values)
        await self.wait(decided)
        if (failure := self._failure_of_all(decided)) is not None:
            raise failure
        responses = [self._result(rule, value) for rule, value in zip(decided, values, strict=True)]
        remaining = [index for index, rule in enumerate(decided) if _calls_real(rule)]
        if remaining:
            batch = [values[index] for index in remaining]
            for index, response in zip(remaining, await self._call_real(batch, batch), strict=True):
                responses[index] = response
        return responses

    async def _call_real(self, argument: Any, values: Sequence[Any]) -> Any:
        """Return the response of the real function. Raises `UnstubbedCall` for an HTTP service."""
        if self._real is None:
            self.unstubbed += [self.trace.name_of(value) for value in values]
            raise UnstubbedCall(f"{self.title}: no rule of the test matches this call, and tests make no HTTP requests")
        response = self._real(argument)
        return await response if inspect.isawaitable(response) else response

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

    def _names_of(self, value: Any) -> str:
        return ", ".join(map(self.trace.name_of, value)) if self._is_batch else self.trace.name_of(value)


class FakeSink(Fake):
    """A sink in a test: keeps the values that it receives, and rejects those for which a rule raises an error."""

    def __init__(self, title: str, name: str, rules: Sequence[StubRule], trace: Trace) -> None:
        super().__init__(title, rules, trace)
        self.delivered: list[Any] = []
        self.opened = False
        self.name = name

    async def open(self) -> None:
        """Open the sink."""
        self.opened = True

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None]:
        """Keep values. Returns an error for each value that is rejected."""
        with self.call(", ".join(map(self.trace.name_of, values))):
            decided = self.decide(values)
            await self.wait(decided)
            errors: list[Exception | None] = []
            for rule, value in zip(decided, values, strict=True):
                error = None if rule is None or rule.raises is None else rule.raises.make(self.title)
                errors.append(error)
                if error is None:
                    self.delivered.append(to_plain(value))
            return errors

    async def aclose(self) -> None:
        """Close the sink."""
        self.opened = False


def _calls_real(rule: StubRule | None) -> bool:
    """Return whether the real function is to be called."""
    return rule is None or rule.action is None


class FailingStore(MemoryStore):
    """A store in memory that fails during outages."""

    def __init__(self, outages: Sequence[StoreOutage], trace: Trace) -> None:
        super().__init__()
        self._outages = outages
        self._trace = trace

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters: all or none."""
        now = self._trace.now
        if any(outage.since <= now and (outage.until is None or now < outage.until) for outage in self._outages):
            self._trace.add("dead letters: the store is down")
            raise StoreError("the store is down")
        await super().add(letters)
        names = ", ".join(format_value(f"#{letter.seq}" if letter.key is None else letter.key) for letter in letters)
        self._trace.add(f"dead letters: stored {names}")


class FakeClient:
    """A client that takes `delay` seconds for each result."""

    def __init__(self, delay: float, recorder: ElementRecorder, trace: Trace) -> None:
        self.records: list[dict[str, Any]] = []
        """The records that it received, in their order."""
        self.disconnected = False
        self._delay = delay
        self._recorder = recorder
        self._trace = trace

    async def write(self, data: bytes) -> None:
        """Receive the lines of one write. They are recorded together at its end, when its elements are settled."""
        lines = data.splitlines()
        if self._delay:
            await asyncio.sleep(self._delay * len(lines))
        if self.disconnected:
            raise ReaderDisconnected
        for line in lines:
            self._receive(msgspec.json.decode(line))

    def _receive(self, record: dict[str, Any]) -> None:
        label = self._recorder.label(self._recorder.elements[record["seq"]])
        part = f", part {record['part']}" if "part" in record else ""
        if record["ok"]:
            self._trace.add(f"ok: {label}{part}")
        else:
            error = record["error"]
            self._trace.add(f"failed: {label}{part} at {error['step']}, {error['type']}: {error['message']}")
        self.records.append(record)
