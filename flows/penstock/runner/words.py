"""What can stand on a command line, as its parsers know it: commands, flags, and what each takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock.commands import COMMANDS, find_command

FILES = ("FILE", "FLOW", "PATH", "DIR|FILE")
FOLDERS = ("DIR", "DIRECTORY", "FOLDER")


@dataclass(frozen=True, slots=True)
class Value:
    """What a flag or a place takes: one of some words, a file, a folder, or something that cannot be guessed."""

    name: str
    choices: tuple[str, ...] = ()
    file: bool = False
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag, by all its names; one without `value` takes none."""

    names: tuple[str, ...]
    about: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Word:
    """A command, or a word of one, and what may follow it."""

    name: str
    about: str
    flags: tuple[Flag, ...] = ()
    values: tuple[Value, ...] = ()
    words: tuple[Word, ...] = ()


def all_words() -> Word:
    """Everything that may follow `penstock`."""
    commands = tuple(word_of_command(name, command.about) for name, command in COMMANDS.items())
    flags = (Flag(("-h", "--help"), "show what there is", None), Flag(("-V", "--version"), "show the version", None))
    return Word("penstock", "", flags, (), commands)


def word_of_command(name: str, about: str) -> Word:
    """A command, as its own parser knows it; by its name alone, if it is not installed or shows no parser."""
    command = find_command(name)
    module = sys.modules.get(getattr(command, "__module__", ""))
    make_parser: Callable[[], argparse.ArgumentParser] | None = getattr(module, "make_parser", None)
    return Word(name, about) if make_parser is None else word_of(name, about, make_parser())


def word_of(name: str, about: str, parser: argparse.ArgumentParser) -> Word:
    """What a parser knows."""
    flags: list[Flag] = []
    values: list[Value] = []
    words: list[Word] = []
    asked: Any = parser  # what argparse knows, it tells nobody; shtab and argcomplete look at it in the same way
    for action in asked._actions:  # noqa: SLF001 - no public list
        if action.nargs == argparse.PARSER:
            words += (word_of(one.dest, _help(one), action.choices[one.dest]) for one in action._choices_actions)  # noqa: SLF001 - nor here
        elif action.option_strings:
            value = None if action.nargs == 0 else value_of(action)
            flags.append(Flag(tuple(action.option_strings), _help(action), value))
        else:
            values.append(value_of(action))
    return Word(name, about, tuple(flags), tuple(values), tuple(words))


def value_of(action: Any) -> Value:
    """What a flag or a place takes, told by its choices or by what its help calls it."""
    name = str(action.metavar or action.dest.upper())
    choices = tuple(map(str, action.choices or (name.split("|") if "|" in name and name not in FILES else ())))
    return Value(name, choices, name in FILES, name in FOLDERS)


def each_word(word: Word, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Word]]:
    """A word and all that may follow it, each with the words before it and itself."""
    yield path, word
    for following in word.words:
        yield from each_word(following, (*path, following.name))


def _help(action: Any) -> str:
    return " ".join((action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%").split())
