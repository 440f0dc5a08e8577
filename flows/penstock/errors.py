"""All exceptions of the library, in one tree.

The constructor of an exception takes the facts, builds the message and keeps the facts as attributes. The message says
what happened and what to do about it. An `ElementError` concerns one element and becomes its failure. All other
exceptions concern a run, a description, or something that a run depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

SERVICE_MESSAGE_LIMIT = 500
"""Characters kept of a service's error message: it comes from another system and becomes part of an error."""


class PenstockError(Exception):
    """The base class of all exceptions of the library."""


class FlowDefinitionError(PenstockError):
    """A flow, or a part of one, is defined incorrectly. Raised when it is built, never while it runs."""


class FlowFileError(FlowDefinitionError):
    """A flow file is invalid. The message has one line per problem: `file:line:column: message`."""

    def __init__(self, diagnostics: Sequence[Any], more: int = 0) -> None:
        lines = [str(diagnostic) for diagnostic in diagnostics]
        super().__init__("\n".join([*lines, f"and {more} more"] if more else lines))
        self.diagnostics = tuple(diagnostics)
        """The problems in the order of their locations, each a `penstock.flowfile.Diagnostic`."""
        self.more = more
        """The number of further problems that are not listed."""


class InvalidExpression(FlowDefinitionError):
    """An expression cannot be compiled. `line` and `column` locate the error in it, starting at 1."""

    def __init__(self, text: str, reason: str, line: int, column: int) -> None:
        super().__init__(f"invalid expression {text!r}: {reason} (column {column})")
        self.text = text
        self.reason = reason
        self.line = line
        self.column = column


class MissingVariable(FlowDefinitionError):
    """An environment variable that a description refers to is not set."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the variable {name} is not set; set it, or give it a default: ${{{name}:-default}}")
        self.name = name


class ExtraMissing(FlowDefinitionError):
    """An optional part of Penstock is used whose packages are not installed."""

    def __init__(self, subject: str, extra: str) -> None:
        super().__init__(f'{subject}: its packages are not installed; install them: pip install "penstock[{extra}]"')
        self.subject = subject
        self.extra = extra


class RunError(PenstockError):
    """A run failed as a whole: because of its source, or of a bug in one of its parts."""


class SourceFailed(RunError):
    """The source raised an exception. Elements that it emitted before are still processed."""

    def __init__(self, source: str, cause: BaseException) -> None:
        super().__init__(f"the source {source} failed: {describe(cause)}")
        self.source = source
        self.__cause__ = cause


class SourceExhausted(RunError):
    """The iterator of a source was consumed by an earlier run, so this run would receive nothing."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"the {source} was consumed by an earlier run; use a list or another object that can be iterated "
            "repeatedly, or create a source for each run"
        )
        self.source = source


class FileReadFailed(RunError):
    """A file could not be read to its end. Its elements up to that point were emitted."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path
        self.reason = reason


class BrokerError(RunError):
    """A message broker cannot be used as configured. `subject` is the source or sink that uses it."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason


class BrokerUnreachable(BrokerError):
    """A message broker cannot be reached."""


class QueryFailed(RunError):
    """A query of a source failed. The rows before were emitted."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} cannot be read: {reason}")
        self.source = source
        self.reason = reason


class BufferOverflow(RunError):
    """A value arrived at a full buffer with `overflow="fail"`."""

    def __init__(self, capacity: int) -> None:
        super().__init__(
            f"the buffer of {capacity} elements is full; make it larger, or choose backpressure, "
            "drop_oldest or drop_newest"
        )
        self.capacity = capacity


class NotInsideRun(RunError):
    """A source or an asynchronous step was subscribed outside of a run."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject} works inside a run only: use flow.run(source) or flow.stream(source)")


class MultipleSources(RunError):
    """A run has more than one source. It numbers the elements of one only."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(
            f"a run has one source, but the source {second} is used in addition to the source {first}; start one run "
            "for each, or combine them into one iterable: from_iterable(itertools.chain(first, second))"
        )


class UnattributedValue(RunError):
    """An operator inside `through` emitted a value that no element caused."""

    def __init__(self, step: str) -> None:
        super().__init__(
            f"the operator in step {step} emitted a value while no element was passing through it; "
            "`through` accepts only synchronous operators that add no values, so not start_with"
        )
        self.step = step


class SettledTwice(RunError):
    """An element was settled a second time: a bug in a step or the result consumer."""

    def __init__(self, seq: int, outcome: str) -> None:
        super().__init__(f"element {seq} cannot be settled as {outcome}: it has been settled before")
        self.seq = seq


class MemoryBoundExceeded(RunError):
    """A run held more elements than its flow allows: a bug in a step."""

    def __init__(self, held: int, bound: int) -> None:
        super().__init__(f"the run held {held} elements, but its bound is {bound}; a step holds more than it declares")
        self.held = held
        self.bound = bound


class UnsettledElements(RunError):
    """A run ended before all its elements were settled: a step or the result consumer lost some."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"the stream ended with {count} elements that were never settled; a step or the result consumer lost them"
        )
        self.count = count


class CancelledFromOutside(RunError):
    """A task of the run was cancelled although the run was not."""

    def __init__(self, task: str) -> None:
        super().__init__(f"{task} was cancelled from outside; use abort() to cancel a run")
        self.task = task


class PushSourceClosed(RunError):
    """A push source accepts no more values: it was closed, or its run is over."""

    def __init__(self) -> None:
        super().__init__("the push source takes no further values; make another one for the next run")


class WrongThread(RunError):
    """A value was pushed in another thread than that of the run's event loop, which would not notice it."""

    def __init__(self, instead: str) -> None:
        super().__init__(f"a value was pushed in another thread than that of the run's event loop; {instead}")


class ReaderDisconnected(RunError):
    """The reader of the results closed its connection. The run is cancelled; nothing failed."""

    def __init__(self) -> None:
        super().__init__("the reader of the results has disconnected")


class ResponseTooLarge(RunError):
    """The results do not fit into a buffered response, which is sent when it is complete."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the results exceed {limit} bytes, the limit of a buffered response; "
            "request a stream: Accept: application/x-ndjson"
        )
        self.limit = limit


class ElementError(PenstockError):
    """One element failed. It becomes a dead letter; other elements continue."""


class MalformedJson(ElementError):
    """The input is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not valid JSON: {reason}")


class InvalidItem(ElementError):
    """The input is valid JSON, but not a valid item of this flow."""


class MalformedRow(ElementError):
    """A row of a CSV file cannot be parsed, or does not match the header."""

    def __init__(self, line: int | None, reason: str) -> None:
        super().__init__(f"the row {'' if line is None else f'at line {line} '}cannot be read: {reason}")
        self.line = line
        self.reason = reason


class ElementTooLarge(ElementError):
    """The input is larger than one element may be. Its beginning is kept, the rest is discarded."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"the element has {length} bytes, more than the limit of {limit}")
        self.length = length
        self.limit = limit


class Poisoned(ElementError):
    """A message was delivered too often: each time it failed, or the process that worked on it ended."""

    def __init__(self, deliveries: int) -> None:
        super().__init__(f"the message was delivered {deliveries} times and never succeeded, so it is not tried again")
        self.deliveries = deliveries


class ExpressionFailed(ElementError):
    """An expression has no result for a value, for example because a field is missing."""

    retryable = False

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text}: {reason}")
        self.text = text
        self.reason = reason


class TimedOperatorNotSupported(ElementError):
    """An operator inside `through` uses timers. `through` sends each value through at once and has no clock."""

    def __init__(self, step: str) -> None:
        super().__init__(
            f"the operator in step {step} uses timers, as delay and debounce do; `through` accepts only operators "
            "without timers"
        )
        self.step = step


class TooManyParts(ElementError):
    """An operator made more values of one element than its step allows."""

    def __init__(self, step: str, limit: int) -> None:
        super().__init__(f"{step} made more than {limit} values of one; give it a larger max_parts, or use flat_map")
        self.step = step
        self.limit = limit


class EncodingFailed(ElementError):
    """The value at the end of the flow cannot be encoded as JSON."""


class ColumnMismatch(ElementError):
    """The fields of a value differ from the columns of a CSV file.

    `explicit` columns come from `fields` or from the header of the file, all others from the first value.
    """

    def __init__(self, missing: list[str], unknown: list[str], *, explicit: bool = False) -> None:
        origin = "the columns are those of `fields` or of the header" if explicit else "the first value has the columns"
        differences = [f"lacks {', '.join(missing)}"] * bool(missing)
        differences += [f"has also {', '.join(unknown)}"] * bool(unknown)
        advice = (
            "keep only the columns, with a step `map` before this one" if explicit else "give all values equal fields"
        )
        super().__init__(f"{origin}, but the value {' and '.join(differences)}; {advice}, or write NDJSON")
        self.missing = missing
        self.unknown = unknown


class ServiceFault(Enum):
    """What an error says about a service, as the attribute `service_fault` of the error; for circuit breakers."""

    UNREACHABLE = "no connection could be made, or it broke"
    TIMED_OUT = "there was no response in time"
    REJECTED = "the service responded that it cannot work now"


class CallTimeout(ElementError):
    """A call of a service exceeded its timeout."""

    service_fault = ServiceFault.TIMED_OUT

    def __init__(self, service: str, seconds: float) -> None:
        super().__init__(f"{service} did not respond within {seconds:g} s")
        self.service = service
        self.seconds = seconds


class DeadlineExceeded(ElementError):
    """An element could not be finished before its deadline. No further call was made for it.

    `where` is the service that it waited for, or `source`. `seconds` is the time that it had from its source on, or
    that the whole run had.
    """

    retryable = False

    def __init__(self, where: str, seconds: float, when: str) -> None:
        super().__init__(f"{where}: the deadline of {seconds:g} s {when}")
        self.where = where
        self.seconds = seconds


class CallCancelled(ElementError):
    """A call of a service ended as cancelled without being cancelled by the run: something it awaited was."""

    def __init__(self, service: str) -> None:
        super().__init__(f"the call of {service} cancelled itself")
        self.service = service


class InvalidCallResult(ElementError):
    """A call of a service returned something that its kind of call must not return."""


class ServiceErrorResponse(ElementError):
    """An HTTP service responded with a status other than 2xx, or rejected one item of a batch.

    `reason` is the message of the service, `kind` its name for the error, and `retry_after` the number of seconds to
    wait before the next attempt.
    """

    def __init__(
        self,
        service: str,
        status: int | None,
        reason: str,
        retry_after: float | None = None,
        kind: str | None = None,
    ) -> None:
        message = f"{service} responded {status} {reason}" if status else f"{service} rejected the item: {reason}"
        super().__init__(message.rstrip())
        self.service = service
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.kind = kind

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed: the service, not the request, is at fault."""
        return self.status is not None and is_retryable_status(self.status)

    @property
    def service_fault(self) -> ServiceFault | None:
        """Whether the service cannot work now: 408, 429 and 5xx."""
        rejects = self.status is not None and (self.status in (408, 429) or self.status >= 500)
        return ServiceFault.REJECTED if rejects else None


def is_retryable_status(status: int) -> bool:
    """Return whether another attempt may succeed after a response with this status."""
    return status in (408, 425, 429) or status >= 500


class ServiceUnreachable(ElementError):
    """An HTTP service could not be reached, or the connection failed. Another attempt may succeed."""

    retryable = True
    service_fault = ServiceFault.UNREACHABLE

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service} could not be reached: {reason}")
        self.service = service
        self.reason = reason


class ServiceUnavailable(ElementError):
    """A service was down for so long that a call stopped waiting for it: for `max_open_wait` of its circuit breaker."""

    retryable = False

    def __init__(self, service: str, waited: float) -> None:
        super().__init__(f"{service} is down; the call has waited for {waited:g} s")
        self.service = service
        self.waited = waited


class SinkUnavailable(ElementError):
    """A sink could not be opened, or its server was down for so long that a value stopped waiting for it.

    `waited` is how long the value has waited, in seconds; None if it has not. Later values try again.
    """

    def __init__(self, sink: str, cause: Exception, waited: float | None = None) -> None:
        problem = "could not be opened" if waited is None else f"is down; the value has waited for {waited:g} s"
        super().__init__(f"{sink} {problem}: {describe(cause)}")
        self.sink = sink
        self.waited = waited
        self.__cause__ = cause


class SinkWriteFailed(PenstockError):
    """A sink cannot be opened or written to."""

    def __init__(self, sink: str, reason: str) -> None:
        super().__init__(f"{sink} cannot be written to: {reason}")
        self.sink = sink
        self.reason = reason


class SinkUnreachable(SinkWriteFailed):
    """The server of a sink cannot be reached, or cannot work now. No value is at fault.

    A sink raises it, or returns it for the values that were not written or may be written again. They wait in the step
    `to`, and are written again.
    """


class RowRejected(ElementError):
    """The database rejected the row of one value, or the value cannot be written as a row of the table."""

    def __init__(self, table: str, reason: str) -> None:
        super().__init__(f"the table {table} rejected the row: {reason}")
        self.table = table
        self.reason = reason


class SinkLocked(SinkWriteFailed):
    """Another process holds the lock of a sink's file."""

    def __init__(self, sink: str) -> None:
        super().__init__(sink, "another process is writing to it; stop that process, or give each process its own file")


class SinkStillLocked(SinkWriteFailed):
    """Another process held the lock of a sink's file for longer than a run waits. The run fails, not its elements."""

    def __init__(self, sink: str, seconds: float) -> None:
        super().__init__(
            sink,
            f"another process has been writing to it for {seconds:g} s; stop that process, or give each process its "
            "own file",
        )
        self.seconds = seconds


class SinkAlreadyOpen(SinkWriteFailed):
    """This process has the file open through a sink with other settings. The run fails, not its elements."""

    def __init__(self, sink: str, settings: str, other: str, other_settings: str) -> None:
        super().__init__(
            sink,
            f"this process is already writing to the same file as {other} ({other_settings}), and this sink is "
            f"{settings}; {_SAME_SETTINGS}",
        )
        self.other = other


class SinkConflict(SinkWriteFailed):
    """Two sinks that would be used together name one file with different settings."""

    def __init__(self, sink: str, settings: str, other: str, other_settings: str, owner: str = "") -> None:
        of = f" of {owner}" if owner else ""
        super().__init__(
            sink,
            f"it is the same file as {other}{of} ({other_settings}), and this sink is {settings}; {_SAME_SETTINGS}",
        )
        self.other = other


_SAME_SETTINGS = "give both the same format and fields, or two files"


class CheckpointInvalid(PenstockError):
    """A run cannot be resumed from a checkpoint."""

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
    """An operation of the dead-letter store failed. It stored nothing."""

    permanent = False
    """Whether further attempts fail too until the store is repaired."""


class StoreTooNew(StoreError):
    """The database was written by a newer Penstock."""

    permanent = True

    def __init__(self, url: str, schema: int, supported: int) -> None:
        super().__init__(
            f"the dead letters at {url} have schema {schema}, this Penstock supports schemas up to {supported}; "
            "install a newer Penstock, or name another database"
        )
        self.url = url
        self.schema = schema
        self.supported = supported


class StoreTooOld(StoreError):
    """The database has an older schema and is not writable, so it cannot be migrated."""

    permanent = True

    def __init__(self, url: str, schema: int, supported: int) -> None:
        super().__init__(
            f"the dead letters at {url} have schema {schema}, this Penstock reads schema {supported}, and the file or "
            "its folder is not writable; list them once as a user who may write to both, which migrates the file"
        )
        self.url = url
        self.schema = schema
        self.supported = supported


class StoreMissing(StoreError):
    """There is no store at the given URL."""

    def __init__(self, url: str) -> None:
        super().__init__(f"there are no dead letters at {url}; name the database with --dead-letters URL")
        self.url = url


class StoreFileReplaced(StoreError):
    """The file that letters were written to is no longer at its path, so they were not stored in it."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the file of the dead letters at {url} was removed, moved or replaced while it was open; a new file is "
            "created if there is none, and an existing one is not used until Penstock is restarted"
        )
        self.url = url


class StoreReplaced(StoreFileReplaced):
    """Another file is at the path of the file that letters were written to."""

    permanent = True


class StoreTruncated(StoreError):
    """The file that letters were written to became shorter, and its content is damaged."""

    permanent = True

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the file of the dead letters at {url} was truncated or overwritten while it was open, so nothing more is "
            "written to it; move it away to start a new one, and save what is left with `sqlite3 FILE .recover`"
        )
        self.url = url


class WriterCrashed(StoreError):
    """The writer process ended unexpectedly. Its current letters may be stored; storing them again is safe."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the process that writes the dead letters at {url} ended ({reason}); it will be restarted")
        self.url = url
        self.reason = reason


class StoreConnectionLost(WriterCrashed):
    """The connection to the server was lost during a commit. The letters may be stored; storing them again is safe."""

    def __init__(self, url: str, reason: str) -> None:
        StoreError.__init__(
            self,
            f"dead-letter store {url}: the connection was lost during a commit ({reason}); it will be opened again, "
            "and letters that were stored are not stored twice",
        )
        self.url = url
        self.reason = reason


class WriterStartFailed(StoreError):
    """The writer process could not be started."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the process that writes the dead letters at {url} cannot be started: {reason}")
        self.url = url
        self.reason = reason


class NotSupportedByStore(StoreError):
    """The store is a log, whose records cannot be changed."""

    def __init__(self, url: str, action: str) -> None:
        super().__init__(
            f"dead-letter store {url}: cannot {action}, because it is a log; list, export and redrive are possible, or "
            "keep letters in a database: sqlite:///FILE or postgresql://HOST/DATABASE"
        )
        self.url = url
        self.action = action


class IncompleteInput(ElementError):
    """A letter cannot be redriven, because only a part of its input was kept."""

    def __init__(self, letter: str, size: int, kept: int) -> None:
        super().__init__(
            f"the input of {size} bytes is not complete ({kept} bytes are stored): it was too large, or has redacted "
            f"fields; replace it: penstock dead-letters edit {letter}"
        )
        self.letter = letter
        self.size = size
        self.kept = kept


class RedriveError(PenstockError):
    """A redrive job cannot be created or changed."""


class NoLetters(RedriveError):
    """No waiting letter matches the query of a redrive."""

    def __init__(self) -> None:
        super().__init__("no waiting dead letter matches; list them: penstock dead-letters list --state waiting")


class FlowNotLoaded(RedriveError):
    """A redrive needs a flow that is not loaded. `known` has the names of the flows that are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        loaded = ", ".join(known) or "none"
        super().__init__(
            f"the flow {name} is not loaded (loaded: {loaded}); load it, or run the letters through another one: "
            "--through NAME"
        )
        self.name = name
        self.known = tuple(known)


class JobConflict(RedriveError):
    """Another job has letters of the same group."""

    def __init__(self, job: str, group: str) -> None:
        super().__init__(
            f"job {job} already redrives letters of group {group}; wait until it ends, or cancel it: "
            f"penstock dead-letters cancel {job}"
        )
        self.job = job
        self.group = group


class JobNotFound(RedriveError):
    """No redrive job has this id."""

    def __init__(self, job: str) -> None:
        super().__init__(f"unknown redrive job {job}; list them: penstock dead-letters jobs")
        self.job = job


class JobEnded(RedriveError):
    """A redrive job that is completed or cancelled cannot be changed."""

    def __init__(self, job: str, state: str) -> None:
        super().__init__(f"job {job} is {state} and cannot be changed; create another one")
        self.job = job
        self.state = state


class LetterNotFound(RedriveError):
    """No dead letter has this id."""

    def __init__(self, id: str) -> None:
        super().__init__(f"unknown dead letter {id}; list them: penstock dead-letters list")
        self.id = id


class LetterNotEditable(RedriveError):
    """A dead letter is claimed or resolved, so its input cannot be changed."""

    def __init__(self, id: str, state: str) -> None:
        super().__init__(f"dead letter {id} is {state}; only waiting and parked letters can be edited")
        self.id = id
        self.state = state


class InvalidEdit(RedriveError):
    """The new input of a dead letter is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the new input is not valid JSON: {reason}")


class InvalidAssignment(InvalidEdit):
    """An assignment of an edit cannot be parsed. `column` is the position of the error, from 1, if it is known."""

    def __init__(self, text: str, reason: str, column: int | None = None) -> None:
        where = "" if column is None else f" (column {column})"
        RedriveError.__init__(
            self,
            f"invalid assignment {text!r}: {reason}{where}; write FIELD=EXPRESSION, such as "
            'currency="EUR" or amount=amount * 100',
        )
        self.text = text
        self.reason = reason
        self.column = column


class NotEditable(RedriveError):
    """Assignments cannot be applied to the input of a dead letter."""


class SeveralStores(RedriveError):
    """A redrive or an edit works on the letters of one store, but the query matches letters of several."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__(f"the letters that match are in {' and '.join(urls)}; select those of one flow: --flow NAME")
        self.urls = urls


class ServiceNotReached(PenstockError):
    """A running Penstock service could not be reached, or the connection to it ended."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the service at {url} cannot be reached: {reason}; start it, or name another with --url")
        self.url = url
        self.reason = reason


class RequestRefused(PenstockError):
    """A running Penstock service refused a request. `code` identifies the reason, `detail` is its message."""

    def __init__(self, url: str, status: int, code: str, detail: str) -> None:
        hint = "; set PENSTOCK_TOKEN to a token of the service" if status == 401 else ""
        super().__init__(f"{url} responded {status}: {detail}{hint}")
        self.url = url
        self.status = status
        self.code = code
        self.detail = detail


class ShuttingDown(PenstockError):
    """The process is shutting down and starts no further runs."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down; send the request again, to another instance or later")


class TooManyRuns(PenstockError):
    """The maximum number of runs is open."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} runs are open, which is the limit; try again later")
        self.limit = limit


def describe(error: BaseException) -> str:
    """Describe an error in one line: its message, or its type if it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # an exception whose message cannot be computed must not break the flow
        return type(error).__name__
