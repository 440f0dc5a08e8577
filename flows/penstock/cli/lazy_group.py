"""A group of commands that imports the module of a command when the command is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """A command that the help of its group lists without importing it."""

    summary: str
    module: str | None = None
    """The module that has the command; None for one that a plug-in adds."""
    attribute: str | None = None
    """The name of the command in the module; None: the name that users write, with underscores."""


class LazyGroup(click.Group):
    """A group whose commands are in a table."""

    table: ClassVar[Mapping[str, LazyCommand]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Returns None for a name that is unknown."""
        known = self.table.get(cmd_name)
        if known is None or known.module is None:
            return None
        command: click.Command = getattr(import_module(known.module), known.attribute or cmd_name.replace("-", "_"))
        return command

    def known_names(self) -> set[str]:
        """Return the names that are suggested for one that is unknown."""
        return set(self.table)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name. Suggests similar names for one that is unknown."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        close = get_close_matches(name, self.known_names())
        hint = (
            f" Did you mean {' or '.join(map(repr, close))}?"
            if close
            else f" `{ctx.command_path} --help` lists all commands."
        )
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of the commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in self.table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands, without importing them, and of options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=command.summary)
            for name, command in self.table.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
