"""Open the desk that a command works on, confirm what it changes, and turn errors into exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.dead_letters.arguments import DeskOptions
from penstock.cli.dead_letters.flows import CommandFlows
from penstock.cli.options import print_error, usage_error
from penstock.deadletters.store import DeadLetterStore
from penstock.deadletters.stores import MEMORY, create_store, normalize_url
from penstock.errors import FlowDefinitionError, InvalidEdit, NotSupportedByStore, PenstockError, RequestRefused
from penstock.redrive.local_desk import LocalDesk
from penstock.settings import SettingsError
from penstock.support.logger import quiet_libraries

if TYPE_CHECKING:
    from penstock.redrive.desk import Desk

WRONG_USAGE = (400, 501)
"""Responses of a service to what a command must not ask for, as opposed to what fails."""

SHUTDOWN_SECONDS = 10.0
"""Seconds that runs have to end after a command."""


def with_desk(
    place: DeskOptions,
    work: Callable[[Any], Awaitable[int]],
    *,
    write: bool = True,
    create: bool = False,
    redrive: bool = False,
) -> int:
    """Open a desk, do some work with it, and close it. Returns the exit code.

    `redrive`: it can run letters through flows.
    """

    async def run() -> int:
        async with open_desk(place, write=write, create=create, redrive=redrive) as desk:
            return await work(desk)

    try:
        return asyncio.run(run())
    except (FlowDefinitionError, SettingsError, NotSupportedByStore, InvalidEdit, ValueError) as error:
        raise usage_error(error) from error
    except RequestRefused as error:
        if error.status in WRONG_USAGE:
            raise usage_error(error) from error
        return print_error("dead-letters", error)
    except PenstockError as error:
        return print_error("dead-letters", error)


@asynccontextmanager
async def open_desk(place: DeskOptions, *, write: bool, create: bool, redrive: bool) -> AsyncGenerator[Desk]:
    """Open the desk of a service or of stores."""
    async with AsyncExitStack() as opened:
        if place.service is not None:
            from penstock.redrive.remote_desk import RemoteDesk

            yield await opened.enter_async_context(RemoteDesk(place.service, os.environ.get("PENSTOCK_TOKEN")))
            return
        quiet_libraries()
        flows = CommandFlows(place.flows)
        stores: list[DeadLetterStore] = []
        for url in [place.store] if place.store_given else flows.stores() or [place.store]:
            store = open_existing(url, write=write, create=create)
            await store.open()
            opened.push_async_callback(store.aclose)
            stores.append(store)
        if not redrive:
            yield LocalDesk(lambda: stores, flows, foreground=True)
            return
        from penstock.observe import configure_logging
        from penstock.redrive import Redriver
        from penstock.runtime import Supervisor

        configure_logging("auto", "error")
        supervisor = Supervisor()
        redriver = Redriver(supervisor, flows)
        opened.push_async_callback(supervisor.shut_down, SHUTDOWN_SECONDS)
        opened.push_async_callback(redriver.drain)
        yield LocalDesk(lambda: stores, flows, redriver, supervisor, foreground=True)


def has_no(desk: Desk, what: str) -> str:
    """Say that something is not there, with the stores that were searched, or the service."""
    places = desk.places()
    return f"{' and '.join(places)} {'has' if len(places) == 1 else 'have'} no {what}"


def open_existing(url: str, *, write: bool, create: bool) -> DeadLetterStore:
    """Make the store at a URL. Raises `FlowDefinitionError` for one in memory."""
    if normalize_url(url) == MEMORY:
        raise FlowDefinitionError(
            "a dead-letter store in memory can be read by its own process only; ask its service: --url URL, or "
            "GET /dead-letters"
        )
    return create_store(url, create=create, read_only=not write)


def confirm(what: Sequence[str], question: str, *, yes: bool) -> bool:
    """Show what will be done, and ask. Without a terminal, raises a usage error that names `--yes`."""
    sys.stderr.writelines(f"{line}\n" for line in what)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise usage_error(f"{question} There is no terminal to ask on; confirm with --yes")
    before = signal.getsignal(signal.SIGINT)
    # The handler of asyncio would only cancel a task, which waits for this answer.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        answer = click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
    if not answer:
        sys.stderr.write("nothing was changed\n")
    return answer
