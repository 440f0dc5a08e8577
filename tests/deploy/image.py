"""The steps of a Dockerfile, performed in a new root by bubblewrap: without Docker, its daemon and its registry.

The base image is replaced by this machine: its `/usr` and `/etc`, read-only, with the Python of the tests in
`/usr/local`, where the official images have theirs. Everything else of the root is empty at the start of each stage.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINKS = [name for name in ("bin", "sbin", "lib", "lib64") if Path("/", name).is_symlink()]
"""Folders of the root that are in /usr."""
BUILD_SECONDS = 600


@dataclass
class Stage:
    """One stage: its root, and what its instructions have set."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def inside(self, command: list[str], *mounts: str, read_only: bool = False) -> list[str]:
        """Return the command that runs a command in the root, as the user of the stage without capabilities."""
        user, _, group = self.user.partition(":")
        limits = ["--reuid", user, "--regid", group, "--clear-groups"]
        if user != "0":
            limits += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        # The Python may be built for another folder, and would find its library only there.
        libraries = {"LD_LIBRARY_PATH": "/usr/local/lib"}
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/"} | libraries | self.variables
        return [
            *("bwrap", "--die-with-parent", "--clearenv", "--ro-bind" if read_only else "--bind", str(self.root), "/"),
            *("--ro-bind", "/usr", "/usr", "--ro-bind", sys.base_prefix, "/usr/local", "--ro-bind", "/etc", "/etc"),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--unshare-pid", "--as-pid-1", *mounts),
            *(word for name, value in variables.items() for word in ("--setenv", name, value)),
            *("--chdir", self.folder, "setpriv", *limits, *command),
        ]


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions and their arguments."""
    lines = re.sub(r"^#.*\n", "", dockerfile, flags=re.M).replace("\\\n", " ").splitlines()
    found = [line.strip().partition(" ") for line in lines if line.strip()]
    return [(name.upper(), text.strip()) for name, _, text in found]


def words(text: str) -> list[str]:
    """Return the words of a command: a JSON array, or the arguments of a shell."""
    return json.loads(text) if text.startswith("[") else ["/bin/sh", "-c", text]


def build(dockerfile: Path, context: Path, work: Path, mounts: dict[str, Path], given: dict[str, str]) -> Stage:
    """Perform the instructions, and return the last stage. `mounts`: folders of the host for the mounts of RUN.

    `given` are variables of the machine for RUN, such as where its packages come from.
    """
    ignored = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    stages: dict[str, Stage] = {}
    stage = Stage(work)
    arguments: dict[str, str] = {}
    for name, text in instructions(dockerfile.read_text(encoding="utf-8")):
        match name:
            case "FROM":
                stage = Stage(new_root(work / str(len(stages))))
                stages[text.partition(" AS ")[2] or str(len(stages))] = stage
                arguments = {}
            case "RUN":
                options = re.match(r"(?:--mount=type=cache,target=(\S+)\s+)?(.*)", text, re.S)
                assert options is not None
                target, command = options.groups()
                mounted = ["--bind", str(mounts[target]), target] if target else []
                run(stage, words(command), mounted, given | arguments)
            case "COPY":
                copy(stage, text, stages, context, allowed)
            case "WORKDIR":
                stage.folder = text
                (stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                for word in shlex.split(text):
                    key, _, value = word.partition("=")
                    stage.variables[key] = value.replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
            case "ARG":
                key, _, value = text.partition("=")
                arguments[key] = value
            case "USER":
                stage.user = text
            case "VOLUME":
                stage.volumes.append(text)
            case "ENTRYPOINT":
                stage.entrypoint = words(text)
            case "CMD":
                stage.command = words(text)
            case "HEALTHCHECK":
                stage.health = words(text.partition("CMD ")[2])
            case "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                raise AssertionError(f"unknown instruction {name}")
    return stage


def new_root(root: Path) -> Path:
    """Make an empty root, with the folders that are mounted."""
    for name in ("usr", "etc", "proc", "dev", "tmp", "var/lib"):
        (root / name).mkdir(parents=True)
    for name in LINKS:
        (root / name).symlink_to(f"usr/{name}")
    return root


def run(stage: Stage, command: list[str], mounts: list[str], variables: dict[str, str]) -> None:
    """Perform RUN. The test fails with the output of the command if the command fails."""
    setting = [word for name, value in variables.items() for word in ("--setenv", name, value)]
    inside = stage.inside(command, *mounts, *setting)
    done = subprocess.run(
        inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"


def copy(stage: Stage, text: str, stages: dict[str, Stage], context: Path, allowed: list[str]) -> None:
    """Perform COPY, from another stage or from the files of the context that .dockerignore lets through."""
    options = dict(word.removeprefix("--").split("=") for word in text.split() if word.startswith("--"))
    *sources, target = (word for word in text.split() if not word.startswith("--"))
    origin = stages[options["from"]].root if "from" in options else context
    place = stage.root / (stage.folder.lstrip("/") if not target.startswith("/") else "") / target.lstrip("/")
    for source in sources:
        assert "from" in options or source in allowed, f"{source} is not in the context"
        found = origin / source.lstrip("/")
        to = place / found.name if target.endswith("/") or (len(sources) > 1) else place
        to.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            link = os.link if "from" in options else shutil.copy2  # stages do not change any more
            shutil.copytree(found, to, symlinks=True, dirs_exist_ok=True, ignore=unwanted, copy_function=link)
        else:
            shutil.copy(found, to)
        if "chmod" in options:
            to.chmod(int(options["chmod"], 8))


def unwanted(folder: str, names: list[str]) -> Any:
    """Leave out compiled files of the checkout, as .dockerignore does; those of an environment are of this stage."""
    return {name for name in names if name == "__pycache__" and "/site-packages" not in folder}
