"""Every way a flow can fail, in one tree.

An error takes the facts, builds its sentence from them and keeps them as attributes. The sentence says what
happened and what to do about it. Errors of one element (`ElementError`) become data: the element's failure.
The others are faults of a flow, of its description, or of something that it stands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SERVICE_MESSAGE_LIMIT = 500
"""Characters of a service's error message that are kept: the message is not ours, and becomes part of an error."""


class PenstockError(Exception):
    """The root of the tree."""


class FlowDefinitionError(PenstockError):
    """A flow is described wrongly; raised when it is built, never while it runs."""


class FlowFileError(FlowDefinitionError):
    """A flow file is wrong. Its message names every mistake, a line each: `file:line:column: what is wrong`."""

    def __init__(self, mistakes: Sequence[Any], more: int = 0) -> None:
        lines = [str(mistake) for mistake in mistakes]
        super().__init__("\n".join([*lines, f"and {more} more"] if more else lines))
        self.mistakes = tuple(mistakes)
        """The mistakes in the order of their places, each a `penstock.flowfile.Mistake`."""
        self.more = more
        """How many further mistakes there are that are not reported."""


class InvalidExpression(FlowDefinitionError):
    """An expression is no expression; `line` and `column` say where in it, from 1 on."""

    def __init__(self, text: str, reason: str, line: int, column: int) -> None:
        super().__init__(f"{text!r} is no expression: {reason} (column {column})")
        self.text = text
        self.reason = reason
        self.line = line
        self.column = column


class MissingVariable(FlowDefinitionError):
    """A variable of the environment that a description names is not set."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the variable {name} is not set; set it, or give it a default: ${{{name}:-default}}")
        self.name = name


class RunError(PenstockError):
    """A run as a whole broke: its source, or a bug in a part of it."""


class SourceFailed(RunError):
    """The source raised; what it had given out before is still finished."""

    def __init__(self, source: str, cause: BaseException) -> None:
        super().__init__(f"the source {source} broke: {describe(cause)}")
        self.source = source
        self.__cause__ = cause


class SourceExhausted(RunError):
    """A source was to give out an iterator that had come to its end in an earlier run, and would give nothing."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"the {source} has been used up by an earlier run; give a list, or another object that can be iterated "
            "again and again, or make a source for each run"
        )
        self.source = source


class FileReadFailed(RunError):
    """A file could not be read to its end; what could be read before was given out."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path
        self.reason = reason


class BufferOverflow(RunError):
    """A buffer with `overflow="fail"` was full when the next value came."""

    def __init__(self, capacity: int) -> None:
        super().__init__(
            f"the buffer of {capacity} elements is full; make it larger, or choose backpressure, "
            "drop_oldest or drop_newest"
        )
        self.capacity = capacity


class NotInsideRun(RunError):
    """A source or an asynchronous step was subscribed outside of a run."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} works inside a run only: use flow.run(source) or flow.stream(source)")


class MultipleSources(RunError):
    """A run numbers what its source gives out, so it has one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(
            f"a run has one source: the source {second} is a second one, behind or beside the source {first}; start a "
            "run for each, or make one iterable of them: from_iterable(itertools.chain(first, second))"
        )


class UnattributedValue(RunError):
    """An operator inside `through` gave out a value that no element caused."""

    def __init__(self, step: str) -> None:
        super().__init__(
            f"the operator in step {step} gave out a value while no element was passing through it; "
            "`through` takes synchronous operators only, and none that brings values of its own, such as start_with"
        )
        self.step = step


class SettledTwice(RunError):
    """An element was settled a second time: a bug in a step or a sink."""

    def __init__(self, seq: int, outcome: str) -> None:
        super().__init__(f"element {seq} was to be settled as {outcome}, but it had been settled before")
        self.seq = seq


class MemoryBoundExceeded(RunError):
    """A run held more elements than its flow can hold: a bug in a step."""

    def __init__(self, held: int, bound: int) -> None:
        super().__init__(f"the run held {held} elements, but its bound is {bound}; a step holds more than it says")
        self.held = held
        self.bound = bound


class UnsettledElements(RunError):
    """A run came to its end while elements were still open: a step or a sink lost them."""

    def __init__(self, count: int) -> None:
        super().__init__(f"the stream ended with {count} elements that were never settled; a step or a sink lost them")
        self.count = count


class CancelledFromOutside(RunError):
    """Something that a part of the run awaited was cancelled, though the run was not."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was cancelled from outside; use abort() to cancel a run")
        self.what = what


class PushSourceClosed(RunError):
    """A push source takes no further values: it was closed, or its run is over."""

    def __init__(self) -> None:
        super().__init__("the push source takes no further values; make another one for the next run")


class WrongThread(RunError):
    """A value was pushed in another thread than that of the run's event loop, which would not notice it."""

    def __init__(self, instead: str) -> None:
        super().__init__(f"a value was pushed in another thread than that of the run's event loop; {instead}")


class ReaderDisconnected(RunError):
    """Whoever was to take the results is gone. The run is cancelled; nothing failed."""

    def __init__(self) -> None:
        super().__init__("the reader of the results is gone")


class ResponseTooLarge(RunError):
    """The results do not fit into one answer that is held back until it is complete."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the results are larger than {limit} bytes, the limit of an answer in one piece; "
            "ask for a stream: Accept: application/x-ndjson"
        )
        self.limit = limit


class ElementError(PenstockError):
    """One element failed; it goes to the dead letters and the others go on."""


class MalformedJson(ElementError):
    """The input is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not valid JSON: {reason}")


class InvalidItem(ElementError):
    """The input is JSON, but not an item of this flow."""


class MalformedRow(ElementError):
    """A row of a CSV file does not fit its header, or is no row at all."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"the row at line {line} cannot be read: {reason}")
        self.line = line
        self.reason = reason


class ElementTooLarge(ElementError):
    """The input is longer than an element may be. Its beginning is kept, the rest was passed over."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"{length} bytes are more than the limit of {limit} bytes for one element")
        self.length = length
        self.limit = limit


class ExpressionFailed(ElementError):
    """An expression has no result for this value, such as for a field that is not there."""

    retryable = False

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text}: {reason}")
        self.text = text
        self.reason = reason


class TimedOperatorNotSupported(ElementError):
    """An operator inside `through` needs a clock, and `through` has none: it sends each value through at once."""

    def __init__(self, step: str) -> None:
        super().__init__(
            f"the operator in step {step} waits, as delay and debounce do; `through` takes operators without a clock"
        )
        self.step = step


class TooManyParts(ElementError):
    """An operator made more values of one than its step takes."""

    def __init__(self, step: str, limit: int) -> None:
        super().__init__(f"{step} made more than {limit} values of one; give it a larger max_parts, or use flat_map")
        self.step = step
        self.limit = limit


class EncodingFailed(ElementError):
    """The value at the end of the flow cannot be written as JSON."""


class ColumnMismatch(ElementError):
    """A value has not the fields that are the columns of a CSV file.

    `named` columns are those of `fields` or of the file's header, others those of the first value.
    """

    def __init__(self, missing: list[str], unknown: list[str], *, named: bool = False) -> None:
        said = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(unknown)}"] * bool(unknown)
        whose = "the columns are those of `fields`, or of the header" if named else "the columns are those of the first"
        way = (
            "leave only the columns in the value, with a step `map` before it" if named else "give all the same fields"
        )
        super().__init__(f"{whose}: the value comes {' and '.join(said)}; {way}, or write NDJSON")
        self.missing = missing
        self.unknown = unknown


class CallTimeout(ElementError):
    """A service did not answer in time."""

    def __init__(self, service: str, seconds: float) -> None:
        super().__init__(f"{service} did not answer within {seconds:g} s")
        self.service = service
        self.seconds = seconds


class CallCancelled(ElementError):
    """A call ended as cancelled, but nobody had cancelled it: something that it waited for was."""

    def __init__(self, service: str) -> None:
        super().__init__(f"the call of {service} cancelled itself")
        self.service = service


class InvalidCallResult(ElementError):
    """A service answered, but not with what its kind of call has to answer."""


class ServiceErrorResponse(ElementError):
    """An HTTP service answered with a status that is no success, or refused one item of a batch.

    `reason` is what the service says about it, `kind` its own name for that, `retry_after` the seconds that it
    asks to be left alone.
    """

    def __init__(
        self,
        service: str,
        status: int | None,
        reason: str,
        retry_after: float | None = None,
        kind: str | None = None,
    ) -> None:
        said = f"{service} answered {status} {reason}" if status else f"{service} refused: {reason}"
        super().__init__(said.rstrip())
        self.service = service
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.kind = kind

    @property
    def retryable(self) -> bool:
        """Whether another attempt may help: the service is busy or broken, it is not the request that is wrong."""
        return self.status is not None and (self.status in (408, 425, 429) or self.status >= 500)


class ServiceUnreachable(ElementError):
    """An HTTP service could not be reached, or the connection broke; another attempt may help."""

    retryable = True

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service} could not be reached: {reason}")
        self.service = service
        self.reason = reason


class SinkUnavailable(ElementError):
    """An outlet could not be opened; the next values that come try again."""

    def __init__(self, outlet: str, cause: Exception) -> None:
        super().__init__(f"{outlet} could not be opened: {describe(cause)}")
        self.outlet = outlet
        self.__cause__ = cause


class SinkWriteFailed(PenstockError):
    """An outlet cannot be opened or written to."""

    def __init__(self, outlet: str, reason: str) -> None:
        super().__init__(f"{outlet} cannot be written: {reason}")
        self.outlet = outlet
        self.reason = reason


class OutletLocked(SinkWriteFailed):
    """The file of an outlet is locked by another process."""

    def __init__(self, outlet: str) -> None:
        super().__init__(
            outlet, "another process is writing to it; stop that process, or give each process a file of its own"
        )


class OutletStillLocked(SinkWriteFailed):
    """Another process kept the lock of an outlet's file for longer than a run waits. The run fails, no element does."""

    def __init__(self, outlet: str, seconds: float) -> None:
        super().__init__(
            outlet,
            f"another process has been writing to it for {seconds:g} s; stop that process, or give each process a file "
            "of its own",
        )
        self.seconds = seconds


class OutletTaken(SinkWriteFailed):
    """This process has the file of an outlet open already, by way of another outlet. The run fails, no element does."""

    def __init__(self, outlet: str, settings: str, other: str, others: str) -> None:
        super().__init__(
            outlet,
            f"this process is writing to the same file already, as {other} ({others}), and this is {settings}; "
            f"{_ONE_WAY}",
        )
        self.other = other


class OutletTwice(SinkWriteFailed):
    """Two outlets that would be in use together name one file, with different settings."""

    def __init__(self, outlet: str, settings: str, other: str, others: str, owner: str = "") -> None:
        of = f" of {owner}" if owner else ""
        super().__init__(outlet, f"it is the same file as {other}{of} ({others}), and this is {settings}; {_ONE_WAY}")
        self.other = other


_ONE_WAY = "give both the same format and fields, or each a file of its own"


class CheckpointInvalid(PenstockError):
    """A run cannot go on from a checkpoint."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the checkpoint {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class OutputUnusable(PenstockError):
    """The results of a run cannot be written to a file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the output {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class GraphvizMissing(PenstockError):
    """An image of a flow needs Graphviz, which is not installed."""

    def __init__(self, format: str) -> None:
        super().__init__(
            f"--format {format} needs Graphviz: install it (apt-get install graphviz, brew install graphviz) "
            "or use --format mermaid"
        )
        self.format = format


class GraphvizFailed(PenstockError):
    """Graphviz did not draw an image."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Graphviz failed: {reason}")
        self.reason = reason


class StoreError(PenstockError):
    """The dead-letter store did not do what it was asked to; nothing was stored by that call."""

    permanent = False
    """Whether further attempts fail too, until somebody repairs the store."""


class StoreTooNew(StoreError):
    """The database was written by a newer Penstock."""

    permanent = True

    def __init__(self, url: str, found: int, known: int) -> None:
        super().__init__(
            f"the dead letters at {url} have schema {found}, this Penstock knows schemas up to {known}; "
            "install a newer Penstock, or name another database"
        )
        self.url = url
        self.found = found
        self.known = known


class StoreTooOld(StoreError):
    """The database has an older schema, and may not be written to, so it cannot be brought up to date."""

    permanent = True

    def __init__(self, url: str, found: int, known: int) -> None:
        super().__init__(
            f"the dead letters at {url} have schema {found}, this Penstock reads schema {known}, and the file or its "
            "folder is not writable; list them once as a user who may write both, which brings the file up to date"
        )
        self.url = url
        self.found = found
        self.known = known


class StoreMissing(StoreError):
    """There is no store at the given URL."""

    def __init__(self, url: str) -> None:
        super().__init__(f"there are no dead letters at {url}; name the database with --dead-letters URL")
        self.url = url


class StoreFileReplaced(StoreError):
    """The file that letters were written to is not at its place any more, so they were not stored in it."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the file of the dead letters at {url} was removed, moved or replaced while it was open; a new one is "
            "begun if there is none, and another one is left alone until Penstock starts anew"
        )
        self.url = url


class StoreReplaced(StoreFileReplaced):
    """Another file is at the place of the one that letters were written to."""

    permanent = True


class StoreTruncated(StoreError):
    """The file that letters were written to became shorter, and its content is damaged."""

    permanent = True

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the file of the dead letters at {url} was truncated or overwritten while it was open, so nothing more is "
            "written to it; move it away to begin a new one, and save what is left with `sqlite3 FILE .recover`"
        )
        self.url = url


class WriterCrashed(StoreError):
    """The process that writes letters ended. Those that it had at hand may be stored, and are safely stored again."""

    def __init__(self, url: str, how: str) -> None:
        super().__init__(f"the process that writes the dead letters at {url} ended ({how}); it is started again")
        self.url = url
        self.how = how


class WriterStartFailed(StoreError):
    """The process that is to write letters cannot be started."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the process that writes the dead letters at {url} cannot be started: {reason}")
        self.url = url
        self.reason = reason


class ShuttingDown(PenstockError):
    """The process is shutting down and starts no further runs."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down; send the request again, to another instance or later")


class TooManyRuns(PenstockError):
    """As many runs as allowed are open."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} runs are open, which is the limit; try again later")
        self.limit = limit


def describe(error: BaseException) -> str:
    """An error in one line: its message, or its type when it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # an error that cannot say what it is must not break the flow
        return type(error).__name__
