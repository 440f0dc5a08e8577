"""Try letters: run a few with real services and without sinks, and show the outcomes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec.structs import replace

from penstock.core.element import CANCELLED, FAILED, FILTERED, UNKNOWN, Element, Failure, Outcome
from penstock.deadletters import DeadLetter, DeadLetterQuery
from penstock.deadletters.dead_letter_queue import DeadLetterQueue, JobOptions
from penstock.errors import RedriveError
from penstock.redrive.flows import FlowLookup, definition_of
from penstock.redrive.records import TryResult
from penstock.redrive.source import RedriveSource
from penstock.results import DiscardResults
from penstock.runtime import Run, RunPlan
from penstock.sinks import DiscardSink
from penstock.support.json_encoding import encode_json

MAX_TRIED = 100
"""Maximum letters of one trial."""


async def try_letters(
    queue: DeadLetterQueue, query: DeadLetterQuery, options: JobOptions, flows: FlowLookup, count: int
) -> list[TryResult]:
    """Run the first `count` waiting letters that match, and return their outcomes. No letter is changed.

    Services are called as in a redrive; sinks discard their values. Functions of the flow run too, with everything that
    they do. Raises `RedriveError` for an unknown flow. A cancel aborts the calls.
    """
    count = min(count, MAX_TRIED)
    letters: list[DeadLetter] = []
    after: str | None = None
    while len(letters) < count:
        page = await queue.page(replace(query, state="waiting"), after=after, limit=count - len(letters))
        letters += page.letters
        if (after := page.next) is None:
            break
    results: dict[str, TryResult] = {}
    by_flow = sorted(letters, key=lambda letter: letter.flow)
    for name, group in groupby(by_flow, lambda letter: options.flow or letter.flow):
        if (flow := flows.flow(name)) is None:
            raise RedriveError(f"the flow {name} is not loaded; load it, or try another one: --through NAME")
        definition = definition_of(flow)
        plan = definition.sinks({sink: DiscardSink(sink) for sink in definition.all_sinks}).plan()
        trial = Trial(replace(plan, dead_letters=None, revision=flow.plan().revision), options)
        results |= {result.id: result for result in await trial.run(list(group))}
    return [results[letter.id] for letter in letters]


class Trial:
    """A run of a few letters whose outcomes are kept."""

    def __init__(self, plan: RunPlan, options: JobOptions) -> None:
        self._plan = plan
        self._letters: dict[int, DeadLetter] = {}
        self._outcomes: dict[int, tuple[Outcome, Any, Failure | None]] = {}
        self._values: defaultdict[int, list[Any]] = defaultdict(list)
        """The values of parts, by the number of their root."""
        self._failures: dict[int, Failure] = {}
        self._source = RedriveSource(self._letters.__setitem__, from_start=options.from_start)

    async def run(self, letters: Sequence[DeadLetter]) -> list[TryResult]:
        """Run letters through the flow. Letters without an outcome, because the run failed, are cancelled."""
        run = Run(self._plan, self._source, DiscardResults(), kind="try", ordered=False)
        run.ledger.watch(self._on_settled)
        try:
            await self._source.put(letters)
            self._source.finish()
            summary = await run.finished
        except BaseException:
            run.abort()
            await run.finished
            raise
        seqs = {letter.id: seq for seq, letter in self._letters.items()}
        return [self._result(letter, seqs.get(letter.id), summary.error) for letter in letters]

    def _on_settled(self, element: Element[Any], outcome: Outcome) -> None:
        root = element.root
        if outcome is FAILED and element.failure is not None:
            self._failures.setdefault(root.seq, element.failure)
        if element.parent is None:
            value = self._values[root.seq] if element.parts is not None else element.value
            self._outcomes[root.seq] = (outcome, value, self._failures.get(root.seq))
        elif outcome not in (FAILED, CANCELLED, FILTERED):
            self._values[root.seq].append(element.value)

    def _result(self, letter: DeadLetter, seq: int | None, run_error: str | None) -> TryResult:
        outcome, value, failure = self._outcomes.get(-1 if seq is None else seq, (CANCELLED, None, None))
        if outcome is FAILED:
            failure = failure or UNKNOWN
            error = f"{failure.step}: {failure.type}: {failure.message}"
            return TryResult(id=letter.id, key=letter.key, outcome="failed", error=error)
        if outcome is CANCELLED:
            return TryResult(id=letter.id, key=letter.key, outcome="cancelled", error=run_error)
        if outcome is FILTERED:
            return TryResult(id=letter.id, key=letter.key, outcome="filtered")
        return TryResult(id=letter.id, key=letter.key, outcome="ok", value=_as_json(value))


def _as_json(value: Any) -> Any:
    """Return a value as JSON values; the text of one that cannot be JSON."""
    try:
        return msgspec.json.decode(encode_json(value))
    except Exception:  # values of users, of any type
        return str(value)
