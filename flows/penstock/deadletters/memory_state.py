"""The letters of a store in memory, with their groups, histories and audit records."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import Attempt, AuditAction, AuditRecord, Edit, Group, Requester
from penstock.deadletters.groups import KnownGroups, pattern_in
from penstock.deadletters.matching import matches
from penstock.deadletters.store import STATES, DeadLetterQuery
from penstock.support.ids import now

AUDIT_LIMIT = 100_000
"""Maximum audit records in memory. The oldest are discarded."""

WAITING, CLAIMED, RESOLVED, PARKED = STATES


class MemoryHistory(Struct, gc=False):
    """What was done to one letter."""

    attempts: list[Attempt] = msgspec.field(default_factory=list[Attempt])
    edits: list[Edit] = msgspec.field(default_factory=list[Edit])


class MemoryLetters:
    """Letters by id, in the order of their ids."""

    def __init__(self) -> None:
        self.by_id: dict[str, DeadLetter] = {}
        self.changed: dict[str, datetime] = {}
        """When letters came into their state, unless they are in their first one."""
        self.histories: dict[str, MemoryHistory] = {}
        self.audit: deque[AuditRecord] = deque(maxlen=AUDIT_LIMIT)
        self._ids: list[str] = []
        """The ids of all letters, sorted."""
        self._origins: dict[tuple[str, str | None], str] = {}
        """The letter of each message, by flow and origin."""
        self._groups = KnownGroups()
        self._audited = 0

    def add(self, letters: Iterable[DeadLetter]) -> int:
        """Add letters whose ids are not there yet; returns how many were added.

        Skips those of a message that has a letter which is not resolved.
        """
        added = 0
        for letter in letters:
            if letter.origin is not None and not self._add_origin(letter):
                continue
            group = self.group_of(letter.flow, letter.step, letter.type, letter.message)
            self.by_id[letter.id] = letter if letter.group == group else replace(letter, group=group)
            insort(self._ids, letter.id)
            added += 1
        return added

    def _add_origin(self, letter: DeadLetter) -> bool:
        """Note the message of a letter. Returns False if it has another letter."""
        message = (letter.flow, letter.origin)
        other = self.by_id.get(self._origins.get(message, ""))
        if other is not None and other.state != RESOLVED:
            return False
        self._origins[message] = letter.id
        return True

    def group_of(self, flow: str, step: str, type: str, message: str) -> str:
        """Return the id of the group of a failure, which may be a new one."""
        if self._groups.outdated:
            known = {one.group: (one.group or "", one.flow, one.step, one.type) for one in self.by_id.values()}
            self._groups.replace(known.values())
        return self._groups.assign([flow], [step], [type], [message])[0]

    def remove(self, ids: Iterable[str]) -> int:
        """Remove letters with their histories; returns how many there were."""
        before = len(self.by_id)
        for id in ids:
            letter = self.by_id.pop(id, None)
            if letter is not None and self._origins.get(message := (letter.flow, letter.origin)) == id:
                del self._origins[message]
            self.changed.pop(id, None)
            self.histories.pop(id, None)
        if len(self.by_id) < before:
            self._ids = sorted(self.by_id)
        return before - len(self.by_id)

    def set_state(self, id: str, state: str, **fields: Any) -> DeadLetter:
        """Change the state of a letter, and other fields. Returns the changed letter."""
        letter = self.by_id[id] = replace(self.by_id[id], state=state, **fields)
        self.changed[id] = now()
        return letter

    def history(self, id: str) -> MemoryHistory:
        """Return the history of a letter, to add to it."""
        return self.histories.setdefault(id, MemoryHistory())

    def since(self, letter: DeadLetter) -> datetime:
        """Return when a letter came into its state."""
        return self.changed.get(letter.id, letter.failed_at)

    def after(self, id: str | None) -> Iterator[DeadLetter]:
        """Return the letters whose ids are larger than `id`, in the order of their ids."""
        start = 0 if id is None else bisect_right(self._ids, id)
        return (self.by_id[self._ids[position]] for position in range(start, len(self._ids)))

    def matching(self, query: DeadLetterQuery, after: str | None = None) -> Iterator[DeadLetter]:
        """Return the letters that match, in the order of their ids, starting after an id."""
        if query.ids is not None:
            ids = sorted(id for id in set(query.ids) if id in self.by_id and (after is None or id > after))
            letters: Iterable[DeadLetter] = (self.by_id[id] for id in ids)
        else:
            letters = self.after(after)
        return (letter for letter in letters if matches(letter, query))

    def groups(self, query: DeadLetterQuery) -> list[Group]:
        """Return the groups of all letters that match, the ones with the most recent letters first."""
        members: dict[str, list[DeadLetter]] = {}
        for letter in self.matching(query):
            members.setdefault(letter.group or "", []).append(letter)
        groups = [_group(id, letters) for id, letters in members.items()]
        return sorted(groups, key=lambda group: (group.last_seen, group.id), reverse=True)

    def record(
        self,
        action: AuditAction,
        requester: Requester,
        query: DeadLetterQuery | Mapping[str, Any],
        count: int = 0,
        *,
        job: str | None = None,
        outcome: str = "done",
    ) -> None:
        """Add an audit record."""
        self._audited += 1
        document = as_query_document(query) if isinstance(query, DeadLetterQuery) else query
        self.audit.append(
            AuditRecord(
                number=self._audited,
                at=now(),
                requester=requester.name,
                action=action,
                reason=requester.reason,
                query=document,
                job=job,
                count=count,
                outcome=outcome,
            )
        )


def as_query_document(query: DeadLetterQuery) -> Mapping[str, Any]:
    """Convert the conditions of a query to a JSON document."""
    document: dict[str, Any] = msgspec.to_builtins(query)
    return {name: value for name, value in document.items() if value is not None}


def _group(id: str, letters: list[DeadLetter]) -> Group:
    """Describe the group of some letters, which are in the order of their ids."""
    first, last = min(letters, key=lambda letter: letter.failed_at), letters[-1]
    return Group(
        id=id,
        flow=last.flow,
        step=last.step,
        type=last.type,
        pattern=pattern_in(id, last.flow, last.step, last.type, last.message),
        counts=Counter(letter.state for letter in letters),
        first_seen=first.failed_at,
        last_seen=max(letter.failed_at for letter in letters),
        first_revision=first.revision,
        sample=last.id,
    )
