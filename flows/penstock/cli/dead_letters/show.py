"""`penstock dead-letters show`: show one letter, what was done to it, and its input."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from penstock.cli.dead_letters.arguments import DeskOptions, desk_options
from penstock.cli.dead_letters.listing import default_store_advice
from penstock.cli.dead_letters.opening import has_no, with_desk
from penstock.cli.dead_letters.tables import format_time
from penstock.cli.options import Command, print_error, usage_error
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import History
from penstock.redrive.desk import Desk
from penstock.redrive.documents import letter_document
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data
from penstock.support.text import printable


@click.command(cls=Command)
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON document.")
@click.option("--input", "as_input", is_flag=True, help="Write only the input (escaped on a terminal).")
@desk_options
def show(place: DeskOptions, id: str, as_json: bool, as_input: bool) -> int:
    """Show one dead letter with all its fields, its redrives and its edits.

    ID is the id in the list, in the result and in the log.
    """
    if as_json and as_input:
        raise usage_error("--json and --input cannot be combined")
    return with_desk(place, lambda desk: _show(desk, place, id, as_json=as_json, as_input=as_input), write=False)


async def _show(desk: Desk, place: DeskOptions, id: str, *, as_json: bool, as_input: bool) -> int:
    """Write one letter as text, as JSON, or only its input. Returns the exit code."""
    found = await desk.show(id)
    if found is None:
        return print_error("dead-letters", has_no(desk, f"dead letter {id}{default_store_advice(place)}"))
    letter, history = found
    if as_input:
        return write_input(letter)
    if as_json:
        write_data(encode_json(letter_document(letter, history)) + b"\n")
    else:
        write_data("".join(line + "\n" for line in format_letter(letter, history)))
    return 0


def write_input(letter: DeadLetter) -> int:
    """Write the input. Returns 1 if the letter does not have all of it."""
    write_data(letter.input.decode(errors="backslashreplace") if sys.stdout.isatty() else letter.input)
    stored = len(letter.input)
    if stored == letter.input_size:
        return 0
    return print_error(
        "dead-letters",
        f"the input had {letter.input_size} bytes, but {stored} are stored: "
        "the beginning, or all without secret fields",
    )


def format_letter(letter: DeadLetter, history: History) -> Iterator[str]:
    """Yield all fields of a letter, one per line, then what was done to it, then its input."""
    fields = {
        "id": letter.id,
        "state": letter.state,
        "group": letter.group or "none",
        "flow": letter.flow,
        "run": letter.run,
        "revision": "none" if letter.revision is None else f"{letter.revision}",
        "seq": f"{letter.seq}" if letter.part is None else f"{letter.seq}, part {letter.part}",
        "key": "none" if letter.key is None else str(letter.key),
        "started": format_time(letter.started_at, "microseconds"),
        "failed": format_time(letter.failed_at, "microseconds"),
        "step": letter.step,
        "type": letter.type,
        "message": letter.message,
        "attempts": str(letter.attempts),
        "cause": letter.cause or "none",
        "partial": "none" if letter.partial_results is None else encode_json(letter.partial_results).decode(),
        "redrives": str(letter.redrives),
        **({} if letter.header is None else {"header": letter.header}),
        **({} if letter.origin is None else {"origin": letter.origin}),
        "input": format_input_size(letter),
    }
    for name, text in fields.items():
        yield f"{name:<10}{printable(text)}"
    yield from map(printable, format_history(history))
    # Bytes that are not UTF-8 become escapes. Line breaks of the input are kept.
    yield from map(printable, letter.input.decode(errors="backslashreplace").rstrip("\n").split("\n"))


def format_history(history: History) -> Iterator[str]:
    """Yield a line for each redrive and each edit."""
    for attempt in history.attempts:
        error = "" if attempt.error is None else f": {attempt.error}"
        when = format_time(attempt.started_at)
        yield f"redrive   {attempt.number} {when} {attempt.outcome}, job {attempt.job} of {attempt.requester}{error}"
    for edit in history.edits:
        reason = f": {edit.reason}" if edit.reason else ""
        before = edit.input.decode(errors="backslashreplace").rstrip("\n")
        yield f"edited    {format_time(edit.at)} by {edit.requester}{reason}; before: {before}"


def format_input_size(letter: DeadLetter) -> str:
    """Say how large the input was, and how much of it is stored."""
    stored = len(letter.input)
    return f"{stored} bytes" if stored == letter.input_size else f"{letter.input_size} bytes, {stored} of them stored"
