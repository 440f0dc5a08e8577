"""A checkpoint: how far a run has come, as a small file that is replaced as a whole and survives a power cut."""

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

RESTART_ADVICE = "; to begin anew, and throw away what is done: --restart"
"""The way out when what is there cannot be used."""


LARGEST = 1 << 28
"""Bytes that a checkpoint may have: far more than the holes in any window, far less than would fill the memory."""

TEMP_SUFFIX = re.compile(r"\.[0-9a-f]{16}\.new")
"""What follows the name of a checkpoint in that of one which is being written: chance, so that it is nobody's file."""


class SavedPartProgress(Struct):
    """The parts of an element that have their lines while the element itself is not done."""

    parts: list[Range]
    worst: Outcome


class Checkpoint(Struct, kw_only=True):
    """What a process has to know to go on with the run of another one that was killed."""

    version: int = VERSION
    run: str
    """The id that all processes of the run share, and its dead letters."""
    inputs: dict[str, str]
    """What the run is made of: its flow, its input … A run of anything else cannot go on from here."""
    started_at: datetime
    seconds: float = 0.0
    """How long the processes before took."""
    offset: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Bytes of the output that are on the disk. All that is done by this checkpoint has its lines in them."""
    done: list[Range] = field(default_factory=list[Range])
    """The seqs of elements that are done, filtered ones among them."""
    pieces: dict[int, SavedPartProgress] = field(default_factory=dict[int, SavedPartProgress])
    ok: int = 0
    failed: int = 0
    filtered: int = 0
    end: EndRecord | None = None
    """The end record, once the run is complete."""


def read_checkpoint(path: str) -> Checkpoint | None:
    """The checkpoint in a file, None if there is none. Raises `CheckpointInvalid`."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise CheckpointInvalid(path, f"it is no checkpoint: it has more than {LARGEST} bytes{RESTART_ADVICE}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointInvalid(path, f"it cannot be read: {error.strerror or error}") from error
    try:
        checkpoint = msgspec.json.decode(text, type=Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = describe_json_error(error, text)
        raise CheckpointInvalid(path, f"it is no checkpoint: {reason}{RESTART_ADVICE}") from error
    if checkpoint.version != VERSION:
        raise CheckpointInvalid(
            path, f"its version is {checkpoint.version}, which is another Penstock's{RESTART_ADVICE}"
        )
    if not all(_ascend(ranges) for ranges in (checkpoint.done, *(one.parts for one in checkpoint.pieces.values()))):
        raise CheckpointInvalid(path, f"its numbers are not in order{RESTART_ADVICE}")
    return checkpoint


def check_regular(path: str) -> None:
    """Raise `CheckpointInvalid` for what is there and is no regular file: it might have no end, or hold readers up."""
    try:
        facts = os.stat(path)
    except OSError:  # nothing is there, or reading it will tell
        return
    if not stat.S_ISREG(facts.st_mode):
        raise CheckpointInvalid(path, "it is no regular file; name another: --checkpoint FILE")


def _ascend(ranges: list[Range]) -> bool:
    """Whether ranges are not empty, begin at 0 or later, and do not touch."""
    return all(before < after for before, after in pairwise((-1, *chain.from_iterable(ranges))))


def write_checkpoint(path: str, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the one before, durably. Raises `OSError`."""
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
    """Remove what processes left that were killed while they wrote this checkpoint. Nobody else may be writing it."""
    folder, name = os.path.split(path)
    with suppress(OSError):  # it is only in the way; writing a checkpoint there will tell
        for left in os.listdir(folder or "."):
            if left.startswith(name) and TEMP_SUFFIX.fullmatch(left, len(name)):
                os.unlink(os.path.join(folder, left))


def sync_parent(path: str) -> None:
    """Have the name of a file on the disk, too."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
