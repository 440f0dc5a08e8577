"""`penstock dead-letters edit`: replace the input of one letter, or change those of many by expressions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

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
from penstock.cli.dead_letters.tables import describe_query, plural
from penstock.cli.options import FILE, Command, print_error, usage_error
from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.store import DeadLetterQuery
from penstock.redrive.desk import Desk
from penstock.redrive.documents import edit_report_document, letter_document
from penstock.redrive.records import Change
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data
from penstock.support.text import printable


@click.command(cls=Command)
@filter_options()
@click.option(
    "--set",
    "assignments",
    metavar="FIELD=EXPRESSION",
    multiple=True,
    help="Set a field to the value of a CEL expression, in which the fields of the input are variables: "
    "--set 'currency=\"EUR\"' --set 'amount=amount*100'. Dots name nested fields; repeatable.",
)
@click.option("--input", "file", metavar="FILE", type=FILE, help="The new input of one letter, JSON; - reads it.")
@all_option
@yes_option
@reason_option
@json_option
@desk_options
def edit(
    place: DeskOptions,
    query: DeadLetterQuery,
    assignments: tuple[str, ...],
    file: str | None,
    all_letters: bool,
    yes: bool,
    requester: Requester,
    as_json: bool,
) -> int:
    """Change the input of waiting and parked letters. The input before the change stays in the history.

    `edit ID --input FILE` replaces the input of one letter. `edit [filters] --set FIELD=EXPRESSION` changes all letters
    that match: it shows five of them before and after, and asks, unless --yes.
    """
    if (file is None) == (not assignments):
        raise usage_error("expected either --set FIELD=EXPRESSION or --input FILE")
    if file is not None:
        if query.ids is None or query != DeadLetterQuery(ids=query.ids[:1]):
            raise usage_error("--input: expected one id, and no filter")
        return _replace(place, query.ids[0], file, requester, as_json=as_json)
    require_selection(query, all_letters=all_letters)
    return with_desk(place, lambda desk: _set(desk, query, assignments, requester, yes=yes, as_json=as_json))


def _replace(place: DeskOptions, id: str, file: str, requester: Requester, *, as_json: bool) -> int:
    try:
        input = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        return print_error("dead-letters", f"{file} cannot be read: {error.strerror}", 2)

    async def work(desk: Desk) -> int:
        letter = await desk.edit(id, input, requester)
        write_data(encode_json(letter_document(letter)) + b"\n" if as_json else f"letter {id} edited\n")
        return 0

    return with_desk(place, work)


async def _set(
    desk: Desk,
    query: DeadLetterQuery,
    assignments: Sequence[str],
    requester: Requester,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    changes = await desk.preview(query, assignments)
    if not changes:
        return print_error("dead-letters", has_no(desk, f"waiting or parked letters{describe_query(query)}"))
    total = await desk.total(query)
    count = total.get("waiting", 0) + total.get("parked", 0)
    if not confirm(list(_lines(changes)), f"Change {plural(count, 'letter')}?", yes=yes):
        return 1
    report = await desk.apply(query, assignments, requester)
    if as_json:
        write_data(encode_json(edit_report_document(report)) + b"\n")
    else:
        same = f", {report.unchanged:,} unchanged" if report.unchanged else ""
        write_data(f"{plural(report.changed, 'letter')} changed{same}\n")
    if not report.errors:
        return 0
    lines = [f"{plural(report.errors, 'letter')} could not be changed, such as:"]
    lines += [f"{sample.id}: {sample.error}" for sample in report.samples]
    return print_error("dead-letters", "\n".join(lines))


def _lines(changes: Sequence[Change]) -> Iterator[str]:
    """Yield the inputs before and after an edit."""
    for change in changes:
        yield f"letter {change.id}"
        yield f"  before  {_text(change.before)}"
        if change.after is None:
            yield f"  error   {printable(change.error or 'unknown')}"
        else:
            yield f"  after   {_text(change.after)}" if change.after != change.before else "  unchanged"


def _text(data: bytes) -> str:
    return printable(data.decode(errors="backslashreplace").rstrip("\n"))
