"""`penstock dead-letters …`: a group that imports the module of a command when the command is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class DeadLetterCommand(NamedTuple):
    """A command that `penstock dead-letters --help` lists without importing it."""

    summary: str
    module: str
    attribute: str
    """The name of the command in the module."""


COMMANDS = {
    "list": DeadLetterCommand("List letters; without filters, groups and the total first.", "listing", "list_"),
    "groups": DeadLetterCommand("List groups: letters that failed for the same reason.", "listing", "groups"),
    "show": DeadLetterCommand("Show one dead letter, its redrives and its edits.", "show", "show"),
    "plan": DeadLetterCommand("Show what a redrive would do.", "redriving", "plan"),
    "redrive": DeadLetterCommand("Run dead letters again, as a job.", "redriving", "redrive"),
    "jobs": DeadLetterCommand("List redrive jobs, or show one.", "jobs", "jobs"),
    "pause": DeadLetterCommand("Pause a job.", "jobs", "pause"),
    "resume": DeadLetterCommand("Continue a job that was paused, stopped or interrupted.", "redriving", "resume"),
    "cancel": DeadLetterCommand("Cancel a job; the letters that it has not redriven wait.", "jobs", "cancel"),
    "rate": DeadLetterCommand("Change the rate of a job.", "jobs", "rate"),
    "park": DeadLetterCommand("Set waiting letters aside, so that no redrive takes them.", "marking", "park"),
    "unpark": DeadLetterCommand("Make parked letters wait again.", "marking", "unpark"),
    "edit": DeadLetterCommand("Change the input of letters.", "editing", "edit"),
    "purge": DeadLetterCommand("Delete letters.", "marking", "purge"),
    "export": DeadLetterCommand("Write letters as NDJSON.", "copying", "export"),
    "import": DeadLetterCommand("Store letters that were exported.", "copying", "import_"),
    "audit": DeadLetterCommand("List who did what to letters and jobs, and why.", "jobs", "audit"),
}


class DeadLetterGroup(click.Group):
    """The commands in `COMMANDS`, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Returns None for a name that is unknown."""
        if (known := COMMANDS.get(cmd_name)) is None:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{known.module}"), known.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of the commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands, without importing them, and of options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=command.summary)
            for name, command in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    "dead-letters",
    cls=DeadLetterGroup,
    epilog="The commands work on a store (--dead-letters URL), also while a service uses it, or through a running "
    "service (--url URL, with its token in PENSTOCK_TOKEN). Exit codes: 0 all well; 1 something failed, failed again, "
    "or nothing matched; 2 wrong usage.",
)
def dead_letters() -> None:
    """List, group, edit, redrive, park and delete dead letters."""
