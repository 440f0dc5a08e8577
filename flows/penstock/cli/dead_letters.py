"""`penstock dead-letters list|show`: list dead letters as a table or as JSON, and show one."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from penstock.cli.options import Command, positive, print_error, usage_error
from penstock.deadletters.dead_letter import DeadLetter, as_document
from penstock.deadletters.store import PAGE, PAGE_LIMIT, STATES, DeadLetterQuery, DeadLetterStore
from penstock.deadletters.stores import MEMORY, create_store, normalize_url
from penstock.errors import FlowDefinitionError, StoreError
from penstock.support.ids import id_of
from penstock.support.json_encoding import encode_json
from penstock.support.terminal import write_data
from penstock.support.text import printable

DEFAULT_URL = "sqlite:///penstock.db"
"""The default of `penstock serve` too."""

HEADINGS = ("ID", "TIME", "FLOW", "KEY", "STEP", "TYPE", "MESSAGE")

MAX_CELL = 32
"""Characters of a cell, except for the id and the message."""

MIN_MESSAGE = 20
"""Characters of a message that are shown even on a narrow terminal."""

F = TypeVar("F", bound=Callable[..., Any])


def letter_id(value: Any) -> str:
    """Convert an option to the id of a dead letter."""
    try:
        return id_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group("dead-letters")
def dead_letters() -> None:
    """List and show dead letters."""


url_option = click.option(
    "--dead-letters",
    "url",
    metavar="URL",
    default=DEFAULT_URL,
    envvar="PENSTOCK_DEAD_LETTERS",
    show_default=True,
    show_envvar=True,
    help="Dead-letter store: sqlite:///FILE.",
)


def filter_options(function: F) -> F:
    """Add an option for each field of a dead letter by which letters can be filtered."""
    for name in ("type", "step", "run", "flow"):
        function = click.option(f"--{name}", metavar="TEXT", help=f"Only letters of this {name}.")(function)
    return function


@dead_letters.command("list", cls=Command)
@filter_options
@click.option("--state", type=click.Choice(STATES), help="Only letters in this state.")
@click.option("--since", metavar="TIME", help="Failed at this time or later, such as 2030-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Failed before this time, in UTC unless it has an offset.")
@click.option("--limit", metavar="N", type=positive, default=PAGE, show_default=True, help="Maximum number of letters.")
@click.option("--after", metavar="ID", type=letter_id, help="Start after this letter.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document per line, with all fields.")
@url_option
def list_(url: str, limit: int, after: str | None, as_json: bool, **filters: str | None) -> int:
    """List dead letters, oldest first, one per line."""
    try:
        query = DeadLetterQuery.of({name: text for name, text in filters.items() if text is not None})
    except ValueError as error:
        raise usage_error(error) from error
    return with_store(url, lambda store: list_letters(store, query, after, limit, as_json=as_json))


@dead_letters.command("show", cls=Command)
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON document.")
@click.option("--input", "as_input", is_flag=True, help="Write only the original input (escaped on a terminal).")
@url_option
def show(id: str, url: str, as_json: bool, as_input: bool) -> int:
    """Show one dead letter with all its fields. ID is the id in the list, in the result and in the log."""
    if as_json and as_input:
        raise usage_error("--json and --input cannot be combined")
    with suppress(ValueError):  # no letter has an invalid id
        id = id_of(id)
    return with_store(url, lambda store: show_letter(store, id, as_json=as_json, as_input=as_input))


def with_store(url: str, work: Callable[[DeadLetterStore], Any]) -> int:
    """Open the store at a URL, do some work with it, and close it. Returns the exit code."""
    try:
        store = open_existing(url)
    except (ValueError, FlowDefinitionError) as error:
        raise usage_error(error) from error

    async def run() -> int:
        await store.open()
        try:
            code: int = await work(store)
            return code
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except StoreError as error:
        return print_error("dead-letters", error)


def open_existing(url: str) -> DeadLetterStore:
    """Make the store at a URL, for reading. Raises `FlowDefinitionError` for one in memory."""
    if normalize_url(url) == MEMORY:
        raise FlowDefinitionError(
            "a dead-letter store in memory can be read by its own process only; ask it over HTTP: GET /dead-letters"
        )
    return create_store(url, create=False, read_only=True)


def _default_store_advice() -> str:
    """Name the option for another database, if the current command did not get it."""
    context = click.get_current_context(silent=True)
    given = context is None or context.get_parameter_source("url") != ParameterSource.DEFAULT
    return "" if given else "; name another database with --dead-letters URL"


async def list_letters(
    store: DeadLetterStore, query: DeadLetterQuery, after: str | None, limit: int, *, as_json: bool
) -> int:
    """Write one line for each letter, page by page. Returns the exit code."""
    table = None if as_json else LetterTable()
    count, last = 0, ""
    async with aclosing(pages(store, query, after, limit)) as found:
        async for letters, more in found:
            lines = table.lines(letters) if table else [encode_json(as_document(letter)).decode() for letter in letters]
            for line in lines:
                write_data(line + "\n")
            count += len(letters)
            last = letters[-1].id if more else ""
    if not count:
        filtered = after is not None or query != DeadLetterQuery()
        match = " that match" if filtered else ""
        sys.stderr.write(f"{store.url} has no dead letters{match}{_default_store_advice()}\n")
    elif last:
        sys.stderr.write(f"there are more; continue with --after {last}\n")
    return 0


async def pages(
    store: DeadLetterStore, query: DeadLetterQuery, after: str | None, limit: int
) -> AsyncGenerator[tuple[list[DeadLetter], bool]]:
    """Yield pages of letters up to a limit, each with whether more letters follow it."""
    while limit:
        page = await store.page(query, after=after, limit=min(limit, PAGE_LIMIT))
        if page.letters:
            yield page.letters, page.next is not None
        if page.next is None:
            return
        limit -= len(page.letters)
        after = page.next


async def show_letter(store: DeadLetterStore, id: str, *, as_json: bool, as_input: bool) -> int:
    """Write one letter as text, as JSON, or only its input. Returns the exit code."""
    letter = await store.get(id)
    if letter is None:
        return print_error("dead-letters", f"{store.url} has no dead letter {id}{_default_store_advice()}")
    if as_input:
        return write_input(letter)
    if as_json:
        write_data(encode_json(as_document(letter)).decode() + "\n")
    else:
        write_data("".join(line + "\n" for line in format_letter(letter)))
    return 0


def write_input(letter: DeadLetter) -> int:
    """Write the original input. Returns 1 if the letter does not have all of it."""
    write_data(letter.input.decode(errors="backslashreplace") if sys.stdout.isatty() else letter.input)
    stored = len(letter.input)
    if stored == letter.input_size:
        return 0
    return print_error(
        "dead-letters",
        f"the input had {letter.input_size} bytes, but {stored} are stored: "
        "the beginning, or all without secret fields",
    )


class LetterTable:
    """Formats letters as lines of a table, with columns as wide as the first page needs.

    On a terminal, messages are cut to the width of the terminal. Otherwise they are complete, so that they can be
    searched.
    """

    def __init__(self) -> None:
        self._max_width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self._widths: list[int] = []

    def lines(self, letters: Sequence[DeadLetter]) -> Iterator[str]:
        """Yield the lines of a page. The first page begins with the headings."""
        rows = [row_of(letter) for letter in letters]
        if not self._widths:
            rows.insert(0, HEADINGS)
            self._widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS) - 1)]
        for row in rows:
            yield self._line(row)

    def _line(self, row: Sequence[str]) -> str:
        *cells, message = row
        line = "  ".join(shorten(cell, width).ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        if self._max_width is not None:
            message = shorten(message, max(MIN_MESSAGE, self._max_width - len(line) - 2))
        return f"{line}  {message}"


def row_of(letter: DeadLetter) -> tuple[str, ...]:
    """Make the cells of a letter."""
    key = "" if letter.key is None else str(letter.key)
    cells = (format_time(letter.failed_at, "seconds"), letter.flow, key, letter.step, letter.type)
    return (letter.id, *(shorten(printable(cell), MAX_CELL) for cell in cells), printable(letter.message))


def format_letter(letter: DeadLetter) -> Iterator[str]:
    """Yield all fields of a letter, one per line, then its input."""
    fields = {
        "id": letter.id,
        "state": letter.state,
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
        "input": format_input_size(letter),
    }
    for name, text in fields.items():
        yield f"{name:<10}{printable(text)}"
    # Bytes that are not UTF-8 become escapes. Line breaks of the input are kept.
    yield from map(printable, letter.input.decode(errors="backslashreplace").rstrip("\n").split("\n"))


def format_input_size(letter: DeadLetter) -> str:
    """Say how large the input was, and how much of it is stored."""
    stored = len(letter.input)
    return f"{stored} bytes" if stored == letter.input_size else f"{letter.input_size} bytes, {stored} of them stored"


def format_time(time: datetime, precision: str) -> str:
    """Format a time in UTC, as `--since` accepts it."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def shorten(text: str, width: int) -> str:
    """Cut a text to a width. A text that was cut ends with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"
