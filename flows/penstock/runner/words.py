"""What can stand on a command line, as its parsers know it: commands, flags, and what each takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock.commands import command_names, find_command

FILES = ("FILE", "FLOW", "PATH")
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
    commands = [word_of_command(name) for name in command_names()]
    flags = (Flag(("-h", "--help"), "show what there is", None), Flag(("-V", "--version"), "show the version", None))
    return Word("penstock", "", flags, (), tuple(commands))


def word_of_command(name: str) -> Word:
    """A command, as its own parser knows it."""
    make_parser = getattr(sys.modules[getattr(find_command(name), "__module__", __name__)], "make_parser", None)
    if make_parser is None:
        return Word(name, "")
    parser: argparse.ArgumentParser = make_parser()
    return word_of(name, (parser.description or "").split(".")[0].split(":")[0].strip(), parser)


def word_of(name: str, about: str, parser: argparse.ArgumentParser) -> Word:
    """What a parser knows."""
    flags: list[Flag] = []
    values: list[Value] = []
    words: list[Word] = []
    actions: Iterable[Any] = parser._actions  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # there is no other way to ask
    for action in actions:
        if isinstance(action.choices, dict):  # parsers by their words
            words += (
                word_of(choice.dest, _help(choice), action.choices[choice.dest])
                for choice in action._choices_actions  # noqa: SLF001
            )
        elif action.option_strings:
            value = None if action.nargs == 0 else value_of(action)
            flags.append(Flag(tuple(action.option_strings), _help(action), value))
        else:
            values.append(value_of(action))
    return Word(name, about, tuple(flags), tuple(values), tuple(words))


def value_of(action: Any) -> Value:
    """What a flag or a place takes, told by its choices or by what its help calls it."""
    name = str(action.metavar or action.dest.upper())
    choices = tuple(map(str, action.choices or (name.split("|") if "|" in name else ())))
    return Value(name, choices, name in FILES, name in FOLDERS)


def each_word(word: Word, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Word]]:
    """A word and all that may follow it, each with the words before it and itself."""
    yield path, word
    for following in word.words:
        yield from each_word(following, (*path, following.name))


def _help(action: Any) -> str:
    return " ".join((action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%").split())
