"""`penstock dead-letters park|unpark|purge`: set letters aside, take them back, delete them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import click
from msgspec.structs import replace

from penstock.cli.dead_letters.arguments import (
    DeskOptions,
    all_option,
    desk_options,
    filter_options,
    json_option,
    reason_option,
    require_selection,
    yes_option,
)
from penstock.cli.dead_letters.opening import confirm, has_no, with_desk
from penstock.cli.dead_letters.tables import describe_query, group_lines, plural, total_line
from penstock.cli.options import Command, print_error
from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.store import DeadLetterQuery
from penstock.redrive.desk import Desk
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data

SHOWN_GROUPS = 10
"""Groups that are shown before letters are deleted."""

Count = Coroutine[Any, Any, int]


@click.command(cls=Command)
@filter_options(state=False)
@all_option
@reason_option
@json_option
@desk_options
def park(place: DeskOptions, query: DeadLetterQuery, all_letters: bool, requester: Requester, as_json: bool) -> int:
    """Set waiting letters aside. No redrive takes parked letters; `unpark` makes them wait again."""
    require_selection(query, all_letters=all_letters)
    return _mark(place, "parked", query, lambda desk: desk.park(query, requester), as_json=as_json)


@click.command(cls=Command)
@filter_options(state=False)
@all_option
@reason_option
@json_option
@desk_options
def unpark(place: DeskOptions, query: DeadLetterQuery, all_letters: bool, requester: Requester, as_json: bool) -> int:
    """Make parked letters wait again."""
    require_selection(query, all_letters=all_letters)
    return _mark(place, "unparked", query, lambda desk: desk.unpark(query, requester), as_json=as_json)


@click.command(cls=Command)
@filter_options()
@all_option
@yes_option
@reason_option
@json_option
@desk_options
def purge(
    place: DeskOptions,
    query: DeadLetterQuery,
    all_letters: bool,
    yes: bool,
    requester: Requester,
    as_json: bool,
) -> int:
    """Delete letters with their histories, except those that are being redriven. Asks first, unless --yes."""
    require_selection(query, all_letters=all_letters)

    async def work(desk: Desk) -> int:
        total = await desk.total(query)
        count = sum(total.values()) - total.get("claimed", 0)
        if not count:
            return _none(desk, query)
        groups = await _groups_of(desk, query)
        if not confirm([*groups, total_line(total)], f"Delete {plural(count, 'letter')}?", yes=yes):
            return 1
        return _report("deleted", await desk.purge(query, requester), as_json=as_json)

    return with_desk(place, work)


def _mark(
    place: DeskOptions, done: str, query: DeadLetterQuery, mark: Callable[[Desk], Count], *, as_json: bool
) -> int:
    async def work(desk: Desk) -> int:
        count = await mark(desk)
        return _report(done, count, as_json=as_json) if count else _none(desk, query)

    return with_desk(place, work)


def _report(done: str, count: int, *, as_json: bool) -> int:
    write_data(encode_json({"count": count}) + b"\n" if as_json else f"{plural(count, 'letter')} {done}\n")
    return 0


def _none(desk: Desk, query: DeadLetterQuery) -> int:
    return print_error("dead-letters", has_no(desk, f"such dead letters{describe_query(query)}"))


async def _groups_of(desk: Desk, query: DeadLetterQuery) -> list[str]:
    """Return the lines of the groups of a query, if it selects by nothing else: then their counts are right."""
    by_group = DeadLetterQuery(flow=query.flow, step=query.step, type=query.type, group=query.group)
    if replace(query, state=None) != by_group:
        return []
    groups = await desk.groups(by_group, limit=SHOWN_GROUPS)
    return list(group_lines(groups, {}))
