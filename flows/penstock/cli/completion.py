"""`penstock completion bash|zsh|fish`: print a script by which a shell completes commands, options and file names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from penstock.cli.options import Command
from penstock.support.terminal import write_data

INSTALL = {
    "bash": "add this line to ~/.bashrc: source <(penstock completion bash)",
    "zsh": "add this line to ~/.zshrc, after compinit: source <(penstock completion zsh)",
    "fish": "run: penstock completion fish > ~/.config/fish/completions/penstock.fish",
}


@click.command(cls=Command)
@click.argument("shell", metavar="SHELL", type=click.Choice(list(INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print a completion script for a shell. Its first line says how to install it. SHELL is bash, zsh or fish."""
    script = get_completion_class(shell)
    assert script is not None
    root = ctx.find_root()
    source = script(root.command, {}, "penstock", "_PENSTOCK_COMPLETE").source()
    write_data(f"# Completion of penstock for {shell}. To install, {INSTALL[shell]}\n{source}")
    return 0
