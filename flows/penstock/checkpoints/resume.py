"""Resume a run that was killed: find out from the checkpoint and the output file what is done.

The checkpoint says what is done up to an offset of the output; both are durable. After the offset, complete lines say
what else is done. The first invalid line, such as a partial one at the end, is removed with everything after it.
Elements without a line are run. An element that was filtered since the checkpoint has no line, and is filtered again.
An element whose letter was stored without its line is found by the letter, and gets its line from it.

An element with parts is done when all its parts are. Otherwise it is run again, and parts that have their lines are
skipped by their numbers. So its parts must be the same, in the same order, each time.
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
    """What is done at the start of a resumed run, and the output to continue."""

    journal: Journal
    output: FileOutput


class Line(Struct):
    """A line of the output."""

    ok: bool | None = None
    seq: int = -1
    part: int | None = None
    end: EndRecord | None = None


def open_resumable(path: str, output_path: str, inputs: dict[str, str], *, ordered: bool, restart: bool) -> ResumeState:
    """Find out what is done, and prepare the output. Raises `CheckpointInvalid`, `OutputUnusable`.

    With `restart`, checkpoint and output are discarded.
    """
    check_regular(path)
    output = FileOutput.open(output_path)
    try:
        remove_temp_files(path)  # the lock of the output also protects the checkpoint
        checkpoint = None if restart else read_checkpoint(path)
        if checkpoint is None:
            _begin(path, output, inputs, restart=restart)
            checkpoint = read_checkpoint(path)
            assert checkpoint is not None
        _check(path, checkpoint, inputs, output)
        journal = Journal(checkpoint)
        output.truncate(read_lines(output, checkpoint.offset, journal, ordered=ordered))
    except BaseException:
        output.close()
        raise
    return ResumeState(journal, output)


def _begin(path: str, output: FileOutput, inputs: dict[str, str], *, restart: bool) -> None:
    if output.size and not restart:
        raise OutputUnusable(
            str(output.path), f"it is not empty, and there is no checkpoint {path} for it; to discard it: --restart"
        )
    try:
        if os.path.exists(path):
            os.unlink(path)  # before the output is emptied: a checkpoint must never claim more than the output has
            sync_parent(path)
        output.truncate(0)
        output.sync()
        write_checkpoint(path, Checkpoint(run=new_id(), inputs=inputs, started_at=now()))
        sync_parent(str(output.path))
    except OSError as error:
        raise CheckpointInvalid(path, f"it cannot be written: {error.strerror or error}") from error


def _check(path: str, checkpoint: Checkpoint, inputs: dict[str, str], output: FileOutput) -> None:
    for name, value in inputs.items():
        before = checkpoint.inputs.get(name, "none")
        if before != value:
            raise CheckpointInvalid(
                path, f"it is of a run with another {name}: {before}; now it is {value}{RESTART_ADVICE}"
            )
    complete = not checkpoint.offset or os.pread(output.descriptor, 1, checkpoint.offset - 1) == b"\n"
    if output.size < checkpoint.offset or not complete:
        lost = f"{output.path} lacks some of the {checkpoint.offset} bytes that were written to it"
        raise CheckpointInvalid(path, lost + RESTART_ADVICE)


def read_lines(output: FileOutput, offset: int, journal: Journal, *, ordered: bool) -> int:
    """Record in the journal the lines after an offset. Return where the last complete one ends."""
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
    """Return the letters of this run whose elements have no line. Raises `StoreError`.

    Letters are selected by run and seq, never by time: the clock may have been set back, by any amount, during the run
    or between two processes of it.
    """
    query = DeadLetterQuery(run=journal.run, min_seq=journal.done.first_missing)  # all elements below are done
    letters: dict[int, DeadLetter] = {}
    after: str | None = None
    while True:
        page = await store.page(query, after=after, limit=1000)
        letters |= {letter.seq: letter for letter in page.letters if letter.seq not in journal.done}
        if page.next is None:
            return letters
        after = page.next


class ResumedNdjson(NdjsonFormat):
    """NDJSON lines of a resumed run. A part that has its line already gets no second one."""

    def __init__(self, journal: Journal) -> None:
        self._written: Mapping[int, IntervalSet] = {
            seq: IntervalSet(list(progress.parts)) for seq, progress in journal.parts.items()
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
    """Save a checkpoint durably, after the output that it describes. Raises `CheckpointInvalid`, `OutputUnusable`."""

    def write() -> None:
        output.sync()
        output.check_not_replaced()
        write_checkpoint(path, checkpoint)

    try:
        await to_thread_uncancellable(write)
    except OSError as error:
        raise CheckpointInvalid(path, f"it cannot be written: {error.strerror or error}") from error
