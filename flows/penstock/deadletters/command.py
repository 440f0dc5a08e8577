"""`penstock dead-letters list|show`: what failed, for the person at the terminal and for the next program in a pipe."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from penstock.any_json import as_json
from penstock.arguments import positive
from penstock.complaints import complain
from penstock.console import write_data
from penstock.deadletters.dead_letter import DeadLetter, as_document
from penstock.deadletters.store import PAGE, PAGE_LIMIT, DeadLetterQuery, DeadLetterStore
from penstock.deadletters.stores import MEMORY, create_store, normalize_url
from penstock.deadletters.table import Table, in_full
from penstock.errors import FlowError, StoreError
from penstock.ids import id_of

DEFAULT_URL = "sqlite:///penstock.db"
"""Where `penstock serve` keeps them too unless told otherwise."""


def command(arguments: list[str]) -> int:
    """Show letters; returns 0, or 1 if there is no store, no such letter, or less than was asked for."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        options.filter = DeadLetterQuery.of({name: text for name, text in vars(options).items() if text is not None})
        store = open_later(options.dead_letters)
    except (ValueError, FlowError) as error:
        parser.error(str(error))

    try:
        code = asyncio.run(look(store, options))
    except StoreError as error:
        return complain("dead-letters", error)
    sys.stdout.flush()  # a reader that has gone is noticed here, not while Python ends
    return code


def make_parser() -> argparse.ArgumentParser:
    """The words and flags of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock dead-letters",
        description="Look at what failed. Letters are on standard output, everything else is on standard error.",
    )
    where = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("PENSTOCK_DEAD_LETTERS", DEFAULT_URL)
    where.add_argument(
        "--dead-letters",
        metavar="URL",
        default=url,
        help=f"where they are: sqlite:///FILE (default {url.replace('%', '%%')}; PENSTOCK_DEAD_LETTERS)",
    )
    words = parser.add_subparsers(dest="word", metavar="list|show", required=True)

    list_ = words.add_parser("list", parents=[where], help="a line for each letter, oldest first")
    for name in ("flow", "run", "step", "type", "state"):
        list_.add_argument(f"--{name}", metavar="TEXT", help=f"only letters of this {name}")
    list_.add_argument("--since", metavar="TIME", help="failed at this time or later, such as 2030-01-31T12:00:00Z")
    list_.add_argument("--until", metavar="TIME", help="failed before this time; UTC unless it names another zone")
    list_.add_argument("--limit", metavar="N", type=positive, default=PAGE, help=f"letters at most (default {PAGE})")
    list_.add_argument("--after", metavar="ID", type=letter_id, help="begin after this letter")
    list_.add_argument("--json", action="store_true", help="a JSON document a line, with everything that is known")

    show = words.add_parser("show", parents=[where], help="everything about one letter")
    show.add_argument("id", metavar="ID", help="as the list, the client's line and the log have it")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON document")
    form.add_argument(
        "--input", action="store_true", help="only the bytes that came in, as they came; escaped on a terminal"
    )
    return parser


def letter_id(text: str) -> str:
    """A letter's id, from a flag."""
    try:
        return id_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def open_later(url: str) -> DeadLetterStore:
    """The store at a URL, which must be there already; raises `FlowError` for one that no other process can see."""
    if normalize_url(url) == MEMORY:
        raise FlowError("letters in memory: can be seen by their own process only; ask it over HTTP: GET /dead-letters")
    return create_store(url, create=False, read_only=True)


async def look(store: DeadLetterStore, options: argparse.Namespace) -> int:
    """Open the store, show what was asked for, close it."""
    await store.open()
    try:
        return await (list_letters if options.word == "list" else show_letter)(store, options)
    finally:
        await store.aclose()


async def list_letters(store: DeadLetterStore, options: argparse.Namespace) -> int:
    """A line for each letter, written as the pages come."""
    table = None if options.json else Table()
    count, last = 0, ""
    async with aclosing(pages(store, options.filter, options.after, options.limit)) as found:
        async for letters, more in found:
            lines = table.lines(letters) if table else [as_json(as_document(letter)).decode() for letter in letters]
            for line in lines:
                write_data(line + "\n")
            count += len(letters)
            last = letters[-1].id if more else ""
    if not count:
        sys.stderr.write(f"no dead letters at {store.url} are as asked for\n")
    elif last:
        sys.stderr.write(f"there are more; go on with --after {last}\n")
    return 0


async def pages(
    store: DeadLetterStore, filter: DeadLetterQuery, after: str | None, limit: int
) -> AsyncGenerator[tuple[list[DeadLetter], bool]]:
    """Letters up to a limit, a page at a time, and whether there are more behind them."""
    while limit:
        page = await store.page(filter, after=after, limit=min(limit, PAGE_LIMIT))
        if page.letters:
            yield page.letters, page.next is not None
        if page.next is None:
            return
        limit -= len(page.letters)
        after = page.next


async def show_letter(store: DeadLetterStore, options: argparse.Namespace) -> int:
    """One letter: for people, for programs, or only what came in."""
    with suppress(ValueError):  # what is no id is that of no letter
        options.id = id_of(options.id)
    letter = await store.get(options.id)
    if letter is None:
        return complain("dead-letters", f"there is no dead letter {options.id} at {store.url}")
    if options.input:
        if sys.stdout.isatty():
            write_data(letter.input.decode(errors="backslashreplace"))
        else:
            sys.stdout.buffer.write(letter.input)
        kept = len(letter.input)
        if kept != letter.input_size:
            return complain(
                "dead-letters",
                f"{letter.input_size} bytes came in, but {kept} are kept: the beginning, or all without secret fields",
            )
    elif options.json:
        write_data(as_json(as_document(letter)).decode() + "\n")
    else:
        write_data("".join(line + "\n" for line in in_full(letter)))
    return 0
