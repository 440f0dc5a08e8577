"""The command line: `penstock COMMAND …`. Commands of other packages are found by their entry points."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A command: what it does, and where its function is; None if an entry point of another package tells."""

    about: str
    where: str | None = None


COMMANDS = {
    "serve": Command("serve flows over HTTP, with background workers and metrics"),
    "run": Command("run a file, or what comes through a pipe, through a flow", "penstock.runner.run_command:command"),
    "new": Command("begin a flow file", "penstock.runner.new_command:command"),
    "check": Command("say everything that is wrong in flow files", "penstock.files.check_command:command"),
    "test": Command("run the tests of flows, in virtual time", "penstock.files.trials.command:command"),
    "graph": Command("draw a flow: as SVG, Mermaid, DOT or JSON", "penstock.files.graph_command:command"),
    "schema": Command("print the JSON Schema of flow files, for editors", "penstock.files.schema_command:command"),
    "dead-letters": Command("look at what failed: list, show", "penstock.deadletters.command:command"),
    "simulate": Command("serve the simulated pricing and inventory services over HTTP"),
    "completion": Command("print what a shell needs to complete all this", "penstock.runner.completion:command"),
}

USAGE = f"""\
usage: penstock COMMAND …

commands:
{"".join(f"  {name:<15} {command.about}{chr(10)}" for name, command in COMMANDS.items())}
penstock COMMAND --help tells more; penstock --version tells the version.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 all well, 1 something failed or a stop was forced, 2 wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version  # late, as all that `--help` does not need

        sys.stdout.write(f"penstock {version('penstock')}\n")
        return 0
    command = _find(words[0])
    if command is None:
        sys.stderr.write(f"penstock: there is no command {words[0]!r}\n\n{USAGE}")
        return 2
    try:
        return command(words[1:])
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). What is left goes nowhere, or Python complains when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _find(name: str) -> Callable[[list[str]], int] | None:
    known = COMMANDS.get(name)
    if known is not None and known.where is not None:
        module, _, function = known.where.partition(":")
        found: Callable[[list[str]], int] = getattr(import_module(module), function)
        return found
    from importlib.metadata import entry_points

    for point in entry_points(group="penstock.commands", name=name):
        loaded: Callable[[list[str]], int] = point.load()
        return loaded
    return None
