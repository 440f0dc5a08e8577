"""Assigns groups to failures within the transaction that stores them, with the limit of their number."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from penstock.deadletters.groups import GROUP_LIMIT, fingerprints, other_group
from penstock.deadletters.sql.dialect import among
from penstock.deadletters.sql.table import GROUPS


def assign(
    connection: Connection, flows: Sequence[str], steps: Sequence[str], types: Sequence[str], messages: Sequence[str]
) -> list[str]:
    """Return the id of the group of each failure. Transactions that run at the same time may exceed the limit."""
    ids = list(fingerprints(flows, steps, types, messages))
    known = set(connection.execute(select(GROUPS.c.id).where(among(GROUPS.c.id, sorted(set(ids))))).scalars())
    numbers: dict[tuple[str, str, str], int] = {}
    for place, id in enumerate(ids):
        if id in known:
            continue
        key = flows[place], steps[place], types[place]
        if key not in numbers:
            numbers[key] = _count(connection, *key)
        if numbers[key] >= GROUP_LIMIT:
            ids[place] = other_group(*key)
        else:
            known.add(id)
            numbers[key] += 1
    return ids


def _count(connection: Connection, flow: str, step: str, type: str) -> int:
    same = GROUPS.c.flow == flow, GROUPS.c.step == step, GROUPS.c.type == type
    return int(connection.execute(select(func.count()).select_from(GROUPS).where(*same)).scalar_one())
