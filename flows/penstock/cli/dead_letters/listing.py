"""`penstock dead-letters list|groups`: list letters and their groups, as tables or as JSON."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

import click

from penstock.cli.dead_letters.arguments import DeskOptions, desk_options, filter_options, json_option, page_options
from penstock.cli.dead_letters.opening import has_no, with_desk
from penstock.cli.dead_letters.tables import LETTER_HEADINGS, Table, group_lines, letter_row, total_line
from penstock.cli.options import Command
from penstock.deadletters.dead_letter import DeadLetter, as_document
from penstock.deadletters.store import PAGE, PAGE_LIMIT, STATES, DeadLetterQuery
from penstock.errors import NotSupportedByStore
from penstock.redrive.desk import Desk
from penstock.redrive.documents import group_document
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data

FIRST_GROUPS = 20
"""Groups that `list` shows before the letters."""


@click.command("list", cls=Command)
@filter_options()
@page_options("letters", limit=PAGE)
@json_option
@desk_options
def list_(place: DeskOptions, query: DeadLetterQuery, limit: int, after: str | None, as_json: bool) -> int:
    """List dead letters, oldest first, one per line. Without filters, the groups and the total come first."""
    return with_desk(place, lambda desk: _list(desk, place, query, after, limit, as_json=as_json), write=False)


@click.command(cls=Command)
@click.option("--group", metavar="ID", help="Only this group.")
@click.option("--flow", metavar="TEXT", help="Only groups of this flow.")
@click.option("--step", metavar="TEXT", help="Only groups that failed in this step.")
@click.option("--type", metavar="TEXT", help="Only groups with this error type.")
@click.option("--state", type=click.Choice(STATES), help="Only groups with letters in this state.")
@page_options("groups", limit=PAGE)
@json_option
@desk_options
def groups(
    place: DeskOptions,
    limit: int,
    after: str | None,
    as_json: bool,
    group: str | None,
    flow: str | None,
    step: str | None,
    type: str | None,
    state: str | None,
) -> int:
    """List groups, those with the most recent letters first.

    The letters of a group have the same flow, step, error type and message, apart from numbers, ids and quoted text.
    """
    query = DeadLetterQuery(group=group, flow=flow, step=step, type=type, state=state)
    return with_desk(place, lambda desk: _groups(desk, place, query, after, limit, as_json=as_json), write=False)


async def _list(
    desk: Desk, place: DeskOptions, query: DeadLetterQuery, after: str | None, limit: int, *, as_json: bool
) -> int:
    """Write one line for each letter, page by page. Returns the exit code."""
    filtered = after is not None or query != DeadLetterQuery()
    if not filtered and not as_json:
        await _write_overview(desk)
    table = None if as_json else Table(LETTER_HEADINGS)
    count, continuation = 0, None
    async with aclosing(pages(desk, query, after, limit)) as found:
        async for letters, following in found:
            lines = (
                table.lines([letter_row(letter) for letter in letters])
                if table
                else [encode_json(as_document(letter)).decode() for letter in letters]
            )
            for line in lines:
                write_data(line + "\n")
            count, continuation = count + len(letters), following
    if not count:
        match = " that match" if filtered else ""
        sys.stderr.write(has_no(desk, f"dead letters{match}{default_store_advice(place)}\n"))
    elif continuation is not None:
        sys.stderr.write(f"there are more; continue with --after {continuation}\n")
    return 0


async def _write_overview(desk: Desk) -> None:
    """Write the groups and the total, if the store has groups."""
    try:
        first = await desk.groups(DeadLetterQuery(), limit=FIRST_GROUPS + 1)
        total = await desk.total(DeadLetterQuery())
    except NotSupportedByStore:
        return
    if not first:
        return
    for line in group_lines(first[:FIRST_GROUPS], total):
        write_data(line + "\n")
    if len(first) > FIRST_GROUPS:
        write_data("…: penstock dead-letters groups\n")
    write_data(f"{total_line(total)}\n\n")


async def _groups(
    desk: Desk, place: DeskOptions, query: DeadLetterQuery, after: str | None, limit: int, *, as_json: bool
) -> int:
    found = await desk.groups(query, after=after, limit=min(limit, PAGE_LIMIT))
    if as_json:
        for group in found:
            write_data(encode_json(group_document(group)) + b"\n")
    elif found:
        total = await desk.total(query)
        for line in group_lines(found, total):
            write_data(line + "\n")
        write_data(total_line(total) + "\n")
    if not found:
        match = " that match" if query != DeadLetterQuery() or after else ""
        sys.stderr.write(has_no(desk, f"groups of dead letters{match}{default_store_advice(place)}\n"))
    elif len(found) == min(limit, PAGE_LIMIT):
        sys.stderr.write(f"there may be more; continue with --after {found[-1].id}\n")
    return 0


async def pages(
    desk: Desk, query: DeadLetterQuery, after: str | None, limit: int
) -> AsyncGenerator[tuple[list[DeadLetter], str | None]]:
    """Yield pages of letters up to a limit, each with the cursor of the next one."""
    while limit > 0:
        page = await desk.page(query, after=after, limit=min(limit, PAGE_LIMIT))
        if page.letters:
            yield page.letters, page.next
        if page.next is None:
            return
        limit -= len(page.letters)
        after = page.next


def default_store_advice(place: DeskOptions) -> str:
    """Name the options for another store, if the command did not get one."""
    given = place.store_given or place.service is not None
    return "" if given else "; name another database with --dead-letters URL"
