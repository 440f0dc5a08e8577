"""Going on where a process was killed: the output file tells what is done, and the checkpoint where to look.

The checkpoint says what is done up to an offset of the output, both durable. Behind it, whole lines say what else is
done; the first that is none, such as half a line at the end, is cut off with all behind it. What has no line by then
is run. An element that was filtered since the checkpoint has none and is filtered once more; one whose letter was
stored, but not its line, is known by the letter, and gets its line from it.

An element in parts is done when all its parts are. If it is not, it is run again, and the parts that have their lines
are passed over by their numbers: so its parts have to come out the same, and in the same order, each time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

from penstock.checkpoints.checkpoint import (
    RESTART_ADVICE,
    Checkpoint,
    check_regular,
    read_checkpoint,
    remove_temp_files,
    sync_parent,
    write_checkpoint,
)
from penstock.checkpoints.interval_set import IntervalSet
from penstock.checkpoints.journal import Journal
from penstock.checkpoints.output_file import FileOutput
from penstock.core.element import Element, Outcome
from penstock.deadletters import DeadLetter, DeadLetterQuery, DeadLetterStore
from penstock.errors import CheckpointInvalid, OutputUnusable
from penstock.results import EndRecord, NdjsonFormat, failure_line, success_line
from penstock.results.records import success_lines
from penstock.support.ids import new_id, now
from penstock.support.tasks import to_thread_uncancellable


class ResumeState(NamedTuple):
    """What a resumable run begins with: what is done, and where its lines are."""

    journal: Journal
    output: FileOutput


class Line(Struct):
    """What a line of the output tells."""

    ok: bool | None = None
    seq: int = -1
    part: int | None = None
    end: EndRecord | None = None


def open_resumable(
    path: str, output_path: str, made_of: dict[str, str], *, ordered: bool, restart: bool
) -> ResumeState:
    """Find out what is done, and get the output ready to be continued. Raises `CheckpointInvalid`, `OutputUnusable`.

    With `restart`, what is there is thrown away.
    """
    check_regular(path)
    output = FileOutput.open(output_path)
    try:
        remove_temp_files(path)  # whoever has the output has the checkpoint
        checkpoint = None if restart else read_checkpoint(path)
        if checkpoint is None:
            _begin(path, output, made_of, restart=restart)
            checkpoint = read_checkpoint(path)
            assert checkpoint is not None
        _check(path, checkpoint, made_of, output)
        journal = Journal(checkpoint)
        output.cut(read_lines(output, checkpoint.offset, journal, ordered=ordered))
    except BaseException:
        output.close()
        raise
    return ResumeState(journal, output)


def _begin(path: str, output: FileOutput, made_of: dict[str, str], *, restart: bool) -> None:
    if output.size and not restart:
        raise OutputUnusable(
            str(output.path), f"it is not empty, and there is no checkpoint {path} for it; to throw it away: --restart"
        )
    try:
        if os.path.exists(path):
            os.unlink(path)  # before the output is emptied: a checkpoint never knows more than the output has
            sync_parent(path)
        output.cut(0)
        output.sync()
        write_checkpoint(path, Checkpoint(run=new_id(), inputs=made_of, started_at=now()))
        sync_parent(str(output.path))
    except OSError as error:
        raise CheckpointInvalid(path, f"it cannot be written: {error.strerror or error}") from error


def _check(path: str, checkpoint: Checkpoint, made_of: dict[str, str], output: FileOutput) -> None:
    for name, value in made_of.items():
        before = checkpoint.inputs.get(name, "none")
        if before != value:
            raise CheckpointInvalid(
                path, f"it is of a run with another {name}: {before}; now it is {value}{RESTART_ADVICE}"
            )
    whole = not checkpoint.offset or os.pread(output.descriptor, 1, checkpoint.offset - 1) == b"\n"
    if output.size < checkpoint.offset or not whole:
        lost = f"{output.path} has not the {checkpoint.offset} bytes that were written to it"
        raise CheckpointInvalid(path, lost + RESTART_ADVICE)


def read_lines(output: FileOutput, offset: int, journal: Journal, *, ordered: bool) -> int:
    """Note in the journal what the lines behind an offset tell; returns where the last whole one ends."""
    decode = msgspec.json.Decoder(Line).decode
    with open(os.dup(output.descriptor), "rb") as file:
        file.seek(offset)
        for text in file:
            try:
                line = decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            if not text.endswith(b"\n"):
                break
            if line.end is not None:
                journal.end = line.end
            elif line.seq < 0 or line.ok is None:
                break
            else:
                if ordered:
                    journal.record_skipped(line.seq)
                journal.record(line.seq, line.part, Outcome.OK if line.ok else Outcome.FAILED)
            offset += len(text)
    return offset


async def find_letters(store: DeadLetterStore, journal: Journal) -> dict[int, DeadLetter]:
    """The letters of this run whose elements have no line. Raises `StoreError`.

    Letters are selected by run and seq, never by time: the clock may have been set back, by any amount, during the run
    or between two processes of it.
    """
    wanted = DeadLetterQuery(run=journal.run, min_seq=journal.done.low)  # all elements below `low` are done
    found: dict[int, DeadLetter] = {}
    after: str | None = None
    while True:
        page = await store.page(wanted, after=after, limit=1000)
        found |= {letter.seq: letter for letter in page.letters if letter.seq not in journal.done}
        if page.next is None:
            return found
        after = page.next


class ResumedNdjson(NdjsonFormat):
    """Lines of NDJSON; a part that has its line already gets none."""

    def __init__(self, journal: Journal) -> None:
        self._written: Mapping[int, IntervalSet] = {
            seq: IntervalSet(list(family.parts)) for seq, family in journal.families.items()
        }
        if self._written:
            self.success = self._success
            self.encode_successes = self._successes
            self.failure = self._failure

    def _is_written(self, element: Element[bytes]) -> bool:
        written = self._written.get(element.seq)
        return written is not None and element.part is not None and element.part in written

    def _success(self, element: Element[bytes]) -> bytes:
        return b"" if self._is_written(element) else success_line(element)

    def _successes(self, elements: list[Element[bytes]]) -> bytes:
        return success_lines([element for element in elements if not self._is_written(element)])

    def _failure(self, element: Element[bytes]) -> bytes:
        return b"" if self._is_written(element) else failure_line(element)


async def save(path: str, output: FileOutput, checkpoint: Checkpoint) -> None:
    """Make a checkpoint durable, after the output that it speaks of. Raises `CheckpointInvalid`, `OutputUnusable`."""

    def write() -> None:
        output.sync()
        output.check_place()
        write_checkpoint(path, checkpoint)

    try:
        await to_thread_uncancellable(write)
    except OSError as error:
        raise CheckpointInvalid(path, f"it cannot be written: {error.strerror or error}") from error
