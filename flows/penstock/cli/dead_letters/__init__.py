"""`penstock dead-letters …`: a group that imports the module of a command when the command is used."""

from __future__ import annotations

import click

from penstock.cli.lazy_group import LazyCommand, LazyGroup

COMMANDS = {
    "list": LazyCommand("List letters; without filters, groups and the total first.", f"{__name__}.listing", "list_"),
    "groups": LazyCommand("List groups: letters that failed for the same reason.", f"{__name__}.listing", "groups"),
    "show": LazyCommand("Show one dead letter, its redrives and its edits.", f"{__name__}.show", "show"),
    "plan": LazyCommand("Show what a redrive would do.", f"{__name__}.redriving", "plan"),
    "redrive": LazyCommand("Run dead letters again, as a job.", f"{__name__}.redriving", "redrive"),
    "jobs": LazyCommand("List redrive jobs, or show one.", f"{__name__}.jobs", "jobs"),
    "pause": LazyCommand("Pause a job.", f"{__name__}.jobs", "pause"),
    "resume": LazyCommand("Continue a job that was paused, stopped or interrupted.", f"{__name__}.redriving", "resume"),
    "cancel": LazyCommand("Cancel a job; the letters that it has not redriven wait.", f"{__name__}.jobs", "cancel"),
    "rate": LazyCommand("Change the rate of a job.", f"{__name__}.jobs", "rate"),
    "park": LazyCommand("Set waiting letters aside, so that no redrive takes them.", f"{__name__}.marking", "park"),
    "unpark": LazyCommand("Make parked letters wait again.", f"{__name__}.marking", "unpark"),
    "edit": LazyCommand("Change the input of letters.", f"{__name__}.editing", "edit"),
    "purge": LazyCommand("Delete letters.", f"{__name__}.marking", "purge"),
    "export": LazyCommand("Write letters as NDJSON.", f"{__name__}.copying", "export"),
    "import": LazyCommand("Store letters that were exported.", f"{__name__}.copying", "import_"),
    "audit": LazyCommand("List who did what to letters and jobs, and why.", f"{__name__}.jobs", "audit"),
}


class DeadLetterGroup(LazyGroup):
    """The commands in `COMMANDS`."""

    table = COMMANDS


@click.group(
    "dead-letters",
    cls=DeadLetterGroup,
    epilog="The commands work on a store (--dead-letters URL), also while a service uses it, or through a running "
    "service (--url URL, with its token in PENSTOCK_TOKEN). Exit codes: 0 all well; 1 something failed, failed again, "
    "or nothing matched; 2 wrong usage.",
)
def dead_letters() -> None:
    """List, group, edit, redrive, park and delete dead letters."""
