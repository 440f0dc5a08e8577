"""The commands there are, and where each is found: imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

Function = Callable[[list[str]], int]
"""Takes the arguments of a command, returns its exit code. Beside it, in its module, `make_parser` makes its parser."""


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
    "graph": Command("draw a flow: Mermaid, DOT, JSON, SVG or PNG", "penstock.files.graph_command:command"),
    "schema": Command("print the JSON Schema of flow files, for editors", "penstock.files.schema_command:command"),
    "dead-letters": Command("look at what failed: list, show", "penstock.deadletters.command:command"),
    "simulate": Command("serve the simulated pricing and inventory services over HTTP"),
    "completion": Command(
        "print what a shell needs to complete all this", "penstock.runner.completion_command:command"
    ),
}


def find_command(name: str) -> Function | None:
    """A command by its name, None if there is none. Those of other packages are found by their entry points."""
    known = COMMANDS.get(name)
    if known is not None and known.where is not None:
        module, _, function = known.where.partition(":")
        found: Function = getattr(import_module(module), function)
        return found
    from importlib.metadata import entry_points

    for point in entry_points(group="penstock.commands", name=name):
        loaded: Function = point.load()
        return loaded
    return None
