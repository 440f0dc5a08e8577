"""`penstock completion bash|zsh|fish`: a script by which a shell completes commands, flags, and names of files.

The scripts are written from the parsers of the commands, so they know what this version knows, and start no Python.
(Tried: shtab, which knows no fish, and a parser that is asked on each key, which takes 300 ms.)
"""

from __future__ import annotations

import argparse

from penstock.runner.shells import bash, fish, zsh
from penstock.runner.words import all_words
from penstock.support.terminal import write_data

SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}

EPILOG = """\
bash:  source <(penstock completion bash), in ~/.bashrc
zsh:   source <(penstock completion zsh), in ~/.zshrc behind compinit
fish:  penstock completion fish > ~/.config/fish/completions/penstock.fish
"""


def command(arguments: list[str]) -> int:
    """Write the script for a shell; returns 0."""
    options = make_parser().parse_args(arguments)
    write_data(SHELLS[options.shell](all_words()))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The words of the command."""
    parser = argparse.ArgumentParser(
        prog="penstock completion",
        description="Write a script by which a shell completes what follows penstock.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell that it is for")
    return parser
