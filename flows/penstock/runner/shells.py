"""Scripts of completion for bash, zsh and fish, from one description of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from penstock.runner.words import Flag, Value, Word, each_word

_BASH = """\
# Completion of penstock for bash: source <(penstock completion bash)
_penstock() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path= flags= words= i
    local IFS=$'\\n'
    if [[ $current == "=" ]]; then current=
    elif [[ $before == "=" ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path/${{COMP_WORDS[i]}}" in
            {paths}) path="$path/${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$path $before" in
{taking}
    esac
    case $path in
{following}
    esac
    if [[ $current == -* ]]; then COMPREPLY=($(compgen -W "$flags" -- "$current"))
    elif [[ $words == "<file>" ]]; then _penstock_files -f
    elif [[ $words == "<folder>" ]]; then _penstock_files -d
    else COMPREPLY=($(compgen -W "$words" -- "$current")); fi
}}
_penstock_files() {{
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen "$1" -- "$current"))
}}
complete -F _penstock penstock
"""

_ZSH = """\
#compdef penstock
# Completion of penstock for zsh: source <(penstock completion zsh), behind compinit
{functions}
if [[ $funcstack[1] == _penstock ]]; then _penstock "$@"; else compdef _penstock penstock; fi
"""


def bash(penstock: Word) -> str:
    """The script for bash."""
    words = list(each_word(penstock))
    paths = "|".join(shlex.quote(_path(path)) for path, _ in words if path)
    taking = [
        f"        {'|'.join(shlex.quote(f'{_path(path)} {name}') for name in flag.names)}) {_bash_value(flag.value)} ;;"
        for path, word in words
        for flag in word.flags
        if flag.value is not None
    ]
    following = [
        f"        {shlex.quote(_path(path))}) flags={_ansi(_names(word.flags))} words={_ansi(_following(word))} ;;"
        for path, word in words
    ]
    return _BASH.format(paths=paths, taking="\n".join(taking), following="\n".join(following))


def _bash_value(value: Value) -> str:
    if value.file or value.folder:
        return f"_penstock_files {'-f' if value.file else '-d'}; return"
    if value.choices:
        return f'COMPREPLY=($(compgen -W {_ansi(value.choices)} -- "$current")); return'
    return "return"


def _names(flags: tuple[Flag, ...]) -> tuple[str, ...]:
    return tuple(name for flag in flags for name in flag.names)


def _following(word: Word) -> tuple[str, ...]:
    """What may follow a word that is no flag."""
    if word.words:
        return tuple(following.name for following in word.words)
    if not word.values:
        return ()
    value = word.values[0]
    return ("<file>",) if value.file else ("<folder>",) if value.folder else value.choices


def _ansi(words: tuple[str, ...]) -> str:
    """Words a line each, as bash and zsh read them: the script has lines, not blanks, between words."""
    return "$'" + "\\n".join(word.replace("\\", "\\\\").replace("'", "\\'") for word in words) + "'"


def _path(path: tuple[str, ...]) -> str:
    return "".join(f"/{word}" for word in path)


def zsh(penstock: Word) -> str:
    """The script for zsh."""
    functions = [_zsh_function("_".join(("_penstock", *path)), word) for path, word in each_word(penstock)]
    return _ZSH.format(functions="\n".join(functions))


def _zsh_function(name: str, word: Word) -> str:
    specs = [spec for flag in word.flags for spec in _zsh_flag(flag)]
    if not word.words:
        specs += [f"{place}:{_zsh_value(value)}" for place, value in enumerate(word.values, 1)]
        return f"{name}() {{\n    _arguments {_lines(specs)}\n}}"
    specs += ["1: :->word", "*:: :->rest"]
    described = [_zsh_text(f"{one.name}:{one.about}") for one in word.words]
    cases = [f"            {one.name}) {name}_{one.name} ;;" for one in word.words]
    return "\n".join(
        (
            f"{name}() {{",
            "    local context state state_descr line",
            "    typeset -A opt_args",
            f"    _arguments -C {_lines(specs)}",
            "    case $state in",
            f"        word) local -a words_there=({_lines(described)}); _describe word words_there ;;",
            "        rest) case $line[1] in",
            *cases,
            "        esac ;;",
            "    esac",
            "}",
        )
    )


def _zsh_flag(flag: Flag) -> Iterator[str]:
    about = flag.about.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    for name in flag.names:
        taken = "" if flag.value is None else f":{_zsh_value(flag.value)}"
        equals = "=" if flag.value is not None and name.startswith("--") else ""
        yield _zsh_text(f"{name}{equals}[{about}]{taken}")


def _zsh_value(value: Value) -> str:
    name = value.name.replace(":", " ")
    if value.file:
        return f"{name}:_files"
    if value.folder:
        return f"{name}:_files -/"
    return f"{name}:({' '.join(value.choices)})" if value.choices else f"{name}: "


def _zsh_text(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _lines(specs: list[str]) -> str:
    return " ".join(f"\\\n        {spec if spec.startswith(chr(39)) else _zsh_text(spec)}" for spec in specs)


def fish(penstock: Word) -> str:
    """The script for fish."""
    lines = ["# Completion of penstock for fish: put this into ~/.config/fish/completions/penstock.fish"]
    lines += ["complete -c penstock -f"]
    for path, word in each_word(penstock):
        seen = "; and ".join(f"__fish_seen_subcommand_from {one}" for one in path)
        words = " ".join(one.name for one in word.words)
        first = f"not __fish_seen_subcommand_from {words}" if words else ""
        condition = "; and ".join(part for part in (seen, first) if part)
        given = f"-n {_fish(condition)} " if condition else ""
        lines += [f"complete -c penstock {given}-a {one.name} -d {_fish(one.about)}" for one in word.words]
        lines += [f"complete -c penstock {given}{_fish_flag(flag)}" for flag in word.flags]
        lines += [f"complete -c penstock {given}{taken}" for value in word.values if (taken := _fish_value(value))]
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
    taken = "" if flag.value is None else f" {'-r' if _is_place(flag.value) else '-x'} {_fish_value(flag.value)}"
    return f"{names}{taken.rstrip()} -d {_fish(flag.about)}"


def _is_place(value: Value) -> bool:
    return value.file or value.folder


def _fish_value(value: Value) -> str:
    if value.folder:
        return "-f -a '(__fish_complete_directories)'"
    if value.file:
        return "-F"
    return f"-a {_fish(' '.join(value.choices))}" if value.choices else ""


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
