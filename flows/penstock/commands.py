"""The commands there are, and where each is found: imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

Command = Callable[[list[str]], int]
"""Takes its arguments and returns its exit code. Beside it, in its module, `make_parser` makes its parser."""

OWN = {
    "run": "penstock.runner.command:command",
    "new": "penstock.runner.new:command",
    "dead-letters": "penstock.deadletters.command:command",
    "completion": "penstock.runner.completion:command",
}
"""The commands of this package, by name. Those of other packages are found by their entry points."""

GROUP = "penstock.commands"


def find_command(name: str) -> Command | None:
    """A command by its name, None if there is none."""
    if name in OWN:
        module, _, function = OWN[name].partition(":")
        found: Command = getattr(import_module(module), function)
        return found
    for point in entry_points(group=GROUP, name=name):
        loaded: Command = point.load()
        return loaded
    return None


def command_names() -> list[str]:
    """The names of all commands."""
    return list(dict.fromkeys((*OWN, *sorted(point.name for point in entry_points(group=GROUP)))))
