"""A checkpoint: the progress of a run in a small file, which is replaced atomically and survives a power failure."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from datetime import datetime
from itertools import chain, pairwise
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from penstock.checkpoints.interval_set import Range
from penstock.core.element import Outcome
from penstock.errors import CheckpointInvalid
from penstock.results import EndRecord
from penstock.support.json_encoding import describe_json_error

VERSION = 1

RESTART_ADVICE = "; to discard it and the output, and start again: --restart"
"""Advice for a checkpoint that cannot be used."""

LARGEST = 1 << 28
"""Maximum bytes of a checkpoint: far more than the gaps of any window need, far less than memory has."""

TEMP_SUFFIX = re.compile(r"\.[0-9a-f]{16}\.new")
"""The end of the name of a temporary file. It is random, so that no other file has it."""


class SavedPartProgress(Struct):
    """The parts of an element that have their lines while the element is not done."""

    parts: list[Range]
    worst: Outcome


class Checkpoint(Struct, kw_only=True):
    """What a process needs to continue the run of a process that was killed."""

    version: int = VERSION
    run: str
    """The id of the run, which all its processes and dead letters share."""
    inputs: dict[str, str] = field(name="made_of")
    """What the results depend on: the flow, the input and so on. A run with other values cannot continue from here."""
    started_at: datetime
    seconds: float = 0.0
    """The duration of the earlier processes of the run."""
    offset: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Bytes of the output that are durable. They contain the lines of everything that is done."""
    done: list[Range] = field(default_factory=list[Range])
    """The sequence numbers of elements that are done, including filtered ones."""
    parts: dict[int, SavedPartProgress] = field(name="pieces", default_factory=dict[int, SavedPartProgress])
    """The progress of elements of which only some parts are done."""
    ok: int = 0
    failed: int = 0
    filtered: int = 0
    end: EndRecord | None = None
    """The end record, once the run is complete."""


def read_checkpoint(path: str) -> Checkpoint | None:
    """Read a checkpoint; return None if there is no file. Raises `CheckpointInvalid`."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise CheckpointInvalid(path, f"it is not a checkpoint: it has more than {LARGEST} bytes{RESTART_ADVICE}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointInvalid(path, f"it cannot be read: {error.strerror or error}") from error
    try:
        checkpoint = msgspec.json.decode(text, type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = describe_json_error(error, text)
        raise CheckpointInvalid(path, f"it is not a checkpoint: {reason}{RESTART_ADVICE}") from error
    if checkpoint.version != VERSION:
        raise CheckpointInvalid(
            path, f"it has version {checkpoint.version} of another Penstock, expected {VERSION}{RESTART_ADVICE}"
        )
    if not all(_ascend(ranges) for ranges in (checkpoint.done, *(one.parts for one in checkpoint.parts.values()))):
        raise CheckpointInvalid(path, f"its numbers are not in order{RESTART_ADVICE}")
    return checkpoint


def check_regular(path: str) -> None:
    """Raise `CheckpointInvalid` for a pipe, a device or a folder, which may have no end or block readers."""
    try:
        status = os.stat(path)
    except OSError:  # there is no file, or reading it reports the error
        return
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointInvalid(path, "it is not a regular file; name another: --checkpoint FILE")


def _ascend(ranges: list[Range]) -> bool:
    """Return whether ranges are not empty, start at 0 or later, and do not touch."""
    return all(before < after for before, after in pairwise((-1, *chain.from_iterable(ranges))))


def write_checkpoint(path: str, checkpoint: Checkpoint) -> None:
    """Replace a checkpoint durably. Raises `OSError`."""
    fresh = f"{path}.{secrets.token_hex(8)}.new"
    with open(fresh, "xb") as file:
        try:
            file.write(msgspec.json.format(msgspec.json.encode(checkpoint), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            os.unlink(fresh)
            raise
    sync_parent(path)


def remove_temp_files(path: str) -> None:
    """Remove temporary files of killed processes. No other process may be writing this checkpoint."""
    folder, name = os.path.split(path)
    with suppress(OSError):  # the files do no harm; writing a checkpoint reports the error
        for left in os.listdir(folder or "."):
            if left.startswith(name) and TEMP_SUFFIX.fullmatch(left, len(name)):
                os.unlink(os.path.join(folder, left))


def sync_parent(path: str) -> None:
    """Sync the folder of a file, so that its name is durable too."""
    if os.name == "nt":  # Windows cannot open folders
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
