"""Plan a redrive: how many letters, of which groups, and which services would be called."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from msgspec.structs import replace

from penstock.core.partial_results import results_of
from penstock.deadletters import PAGE_LIMIT, DeadLetter, DeadLetterQuery
from penstock.deadletters.dead_letter_queue import DeadLetterQueue, JobOptions
from penstock.deadletters.groups import pattern_of
from penstock.redrive.flows import FlowDefinition, FlowLookup, definition_of
from penstock.redrive.records import Plan, PlannedGroup
from penstock.steps import Enrich, walk

EXAMINED = 10_000
"""Maximum letters that a plan reads."""


async def plan(queue: DeadLetterQueue, query: DeadLetterQuery, options: JobOptions, flows: FlowLookup) -> Plan:
    """Return what a redrive of the waiting letters that match would do. Nothing is changed.

    The services are those that the steps of the flow call for each letter; a letter that takes another branch, or fails
    earlier, calls fewer. Of more than 10,000 letters only these are read, and a warning says so.
    """
    query = replace(query, state="waiting")
    return await _Planner(options, flows).plan(queue, query)


class _Planner:
    """Counts letters."""

    def __init__(self, options: JobOptions, flows: FlowLookup) -> None:
        self._options = options
        self._flows = flows
        self._groups: dict[str, PlannedGroup] = {}
        self._services: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._incomplete = 0
        self._read = 0

    async def plan(self, queue: DeadLetterQueue, query: DeadLetterQuery) -> Plan:
        """Read letters, and return the plan."""
        async for letter in _letters(queue, query):
            self._read += 1
            self._add(letter)
            if self._read == EXAMINED:
                break
        total = self._read if self._read < EXAMINED else (await queue.count(query))[()]
        rate = self._options.rate
        return Plan(
            letters=total,
            groups=sorted(self._groups.values(), key=lambda group: (-group.letters, group.id)),
            services=dict(self._services),
            kept=dict(self._kept),
            seconds=None if rate is None else round(total / rate, 3),
            warnings=self._warnings(total),
        )

    def _add(self, letter: DeadLetter) -> None:
        group = self._groups.get(letter.group or "")
        if group is None:
            group = PlannedGroup(
                id=letter.group or "",
                flow=letter.flow,
                step=letter.step,
                type=letter.type,
                pattern=pattern_of(letter.message),
                letters=0,
            )
        self._groups[group.id] = replace(group, letters=group.letters + 1)
        name = self._options.flow or letter.flow
        if not letter.complete:
            self._incomplete += 1
        elif (flow := self._flows.flow(name)) is None:
            self._unknown[name] += 1
        else:
            called, kept = calls_of(definition_of(flow), letter, from_start=self._options.from_start)
            self._services.update(called)
            self._kept.update(kept)

    def _warnings(self, total: int) -> list[str]:
        warnings = [
            f"{_letters_text(count)} of the flow {name}, which is not loaded: load it, or use --through NAME"
            for name, count in self._unknown.items()
        ]
        if self._incomplete:
            warnings.append(
                f"{_letters_text(self._incomplete)} with an incomplete input, which fail again: edit them first"
            )
        if total > self._read:
            warnings.append(f"groups and services are those of the first {self._read} letters")
        return warnings


def calls_of(flow: FlowDefinition, letter: DeadLetter, *, from_start: bool) -> tuple[set[str], set[str]]:
    """Return the services that the redrive of a letter calls, and those whose kept results it uses."""
    called: set[str] = set()
    kept: set[str] = set()
    results = {} if from_start or letter.partial_results is None else letter.partial_results
    for step in walk(flow.steps):
        reused = results_of(step.name, step.services, results) if isinstance(step, Enrich) and results else {}
        for field, service in step.services.items():
            (kept if field in reused else called).add(service.name)
    return called, kept - called


async def _letters(queue: DeadLetterQueue, query: DeadLetterQuery) -> AsyncIterator[DeadLetter]:
    after: str | None = None
    while True:
        page = await queue.page(query, after=after, limit=PAGE_LIMIT)
        for letter in page.letters:
            yield letter
        if (after := page.next) is None:
            return


def _letters_text(count: int) -> str:
    return f"{count} letter{'' if count == 1 else 's'}"
