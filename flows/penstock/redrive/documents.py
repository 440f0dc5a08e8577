"""Convert the records of the desk to JSON documents and back, for HTTP and for `--json`.

Names are in camel case, times in ISO 8601; inputs are text if they are UTF-8, else Base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

from penstock.deadletters.dead_letter import DeadLetter, as_document
from penstock.deadletters.dead_letter_queue import (
    REDRIVE_LIMIT,
    Attempt,
    AuditRecord,
    Edit,
    Group,
    History,
    Job,
    JobOptions,
)
from penstock.deadletters.letter_documents import from_document
from penstock.deadletters.store import STATES, DeadLetterQuery
from penstock.redrive.records import AuditPage, Change, EditReport, ImportReport, LogReport, Plan, TryResult
from penstock.support.text import suggest

R = TypeVar("R", bound=Struct)

DEFAULT_OPTIONS = JobOptions()

MAX_CANARIES = 100
"""Canary batches of one job."""


def letter_document(letter: DeadLetter, history: History | None = None) -> dict[str, Any]:
    """Convert a letter, with what was done to it if that is given."""
    if history is None:
        return as_document(letter)
    return as_document(letter) | {
        "attempts": [record_document(attempt) for attempt in history.attempts],
        "edits": [
            {"at": edit.at.isoformat(), "requester": edit.requester, "reason": edit.reason}
            | {"input": bytes_document(edit.input)}
            | ({} if edit.header is None else {"header": edit.header})
            for edit in history.edits
        ],
    }


def letter_of(document: Any) -> DeadLetter:
    """Convert a document back to a letter, as `import` accepts it. Raises `ValueError`."""
    return from_document(document)


def history_of(document: Mapping[str, Any]) -> History:
    """Convert the history in the document of a letter back. Raises `ValueError`."""
    edits = [{**edit, "input": bytes_of(edit["input"])} for edit in document.get("edits", ())]
    return History(
        [record_of(attempt, Attempt) for attempt in document.get("attempts", ())],
        [record_of(edit, Edit) for edit in edits],
    )


def query_document(query: DeadLetterQuery) -> dict[str, Any]:
    """Convert a query. Conditions that are not set are missing."""
    document: dict[str, Any] = msgspec.to_builtins(query)
    return {name: value for name, value in document.items() if value is not None}


def query_of(document: Any) -> DeadLetterQuery:
    """Convert the query of a request body back. Raises `ValueError` for unknown names and invalid values."""
    known = [name for name in DeadLetterQuery.__struct_fields__ if name != "min_seq"]
    fields = _object(document, "query", known)
    state = fields.get("state")
    if state is not None and state not in STATES:
        raise ValueError(f"query: state: expected one of {', '.join(STATES)}, got {state!r}")
    times = {name: fields[name] for name in ("since", "until") if fields.get(name) is not None}
    parsed = DeadLetterQuery.of({name: str(text) for name, text in times.items()})
    rest = {name: value for name, value in fields.items() if name not in times}
    converted = _convert(rest, DeadLetterQuery, "query")
    return msgspec.structs.replace(converted, since=parsed.since, until=parsed.until)


def options_document(options: JobOptions) -> dict[str, Any]:
    """Convert the options of a job."""
    return record_document(options)


def options_of(document: Mapping[str, Any]) -> JobOptions:
    """Convert options back; those that are missing have their defaults. Raises `ValueError`."""
    known = [_camel(name) for name in JobOptions.__struct_fields__]
    fields = {name: value for name, value in _object(document, "options", known).items() if value is not None}
    options = record_of(fields, JobOptions, "options")
    check_options(options)
    return options


def check_options(options: JobOptions) -> None:
    """Raise `ValueError` for options that no job can have."""
    if len(options.canary) > MAX_CANARIES:
        raise ValueError(f"canary: expected at most {MAX_CANARIES} batches, got {len(options.canary)}")
    if any(size < 1 for size in options.canary):
        raise ValueError(f"canary: expected numbers of letters >= 1, got {min(options.canary)}")
    if options.stop_at is not None and not 0 <= options.stop_at <= 1:
        raise ValueError(f"stopAt: expected a fraction from 0 to 1, got {options.stop_at!r}")
    if options.rate is not None:
        check_rate(options.rate)
    if not 1 <= options.limit <= 1_000_000:
        raise ValueError(f"limit: expected a number of redrives from 1 to 1000000, got {options.limit}")


def check_rate(rate: float) -> None:
    """Raise `ValueError` for a rate that no job can have."""
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate: expected a number of letters per second > 0, got {rate!r}")


def job_document(job: Job) -> dict[str, Any]:
    """Convert a job, with the counts of all its batches together."""
    return record_document(job) | {
        "query": dict(job.query),
        "counts": record_document(job.counts) | {"open": job.counts.open},
        "batches": [record_document(batch) | {"open": batch.open} for batch in job.batches],
    }


def job_of(document: Mapping[str, Any]) -> Job:
    """Convert the document of a job back. Raises `ValueError`."""
    options = _snake(document.get("options") or {"limit": REDRIVE_LIMIT})
    return record_of({**document, "options": options}, Job)


def group_document(group: Group) -> dict[str, Any]:
    """Convert a group."""
    return record_document(group)


def plan_document(plan: Plan) -> dict[str, Any]:
    """Convert a plan."""
    return record_document(plan) | {"services": dict(plan.services), "kept": dict(plan.kept)}


def plan_of(document: Mapping[str, Any]) -> Plan:
    """Convert the document of a plan back. Raises `ValueError`."""
    return record_of(document, Plan)


def try_document(result: TryResult) -> dict[str, Any]:
    """Convert the outcome of a trial. Its value is not changed."""
    return record_document(result) | {"value": result.value}


def try_of(document: Mapping[str, Any]) -> TryResult:
    """Convert the document of the outcome of a trial back. Raises `ValueError`."""
    return record_of(document, TryResult)


def change_document(change: Change) -> dict[str, Any]:
    """Convert a change. `before` and `after` are inputs, as in the document of a letter."""
    return {
        "id": change.id,
        "before": bytes_document(change.before),
        "after": None if change.after is None else bytes_document(change.after),
        "error": change.error,
    }


def change_of(document: Mapping[str, Any]) -> Change:
    """Convert the document of a change back. Raises `ValueError`."""
    after = document.get("after")
    inputs = {"before": bytes_of(document.get("before")), "after": None if after is None else bytes_of(after)}
    return record_of({**document, **inputs}, Change)


def edit_report_document(report: EditReport) -> dict[str, Any]:
    """Convert the report of an edit."""
    return record_document(report) | {"samples": [change_document(sample) for sample in report.samples]}


def edit_report_of(document: Mapping[str, Any]) -> EditReport:
    """Convert the document of the report of an edit back. Raises `ValueError`."""
    samples = [change_of(sample) for sample in document.get("samples", ())]
    return msgspec.structs.replace(record_of({**document, "samples": ()}, EditReport), samples=samples)


def audit_document(record: AuditRecord) -> dict[str, Any]:
    """Convert an audit record."""
    return record_document(record) | {"query": dict(record.query)}


def audit_page_of(document: Mapping[str, Any]) -> AuditPage:
    """Convert the document of a page of the audit back. Raises `ValueError`."""
    return AuditPage([record_of(each, AuditRecord) for each in document["records"]], document.get("next"))


def import_document(report: ImportReport) -> dict[str, Any]:
    """Convert the report of an import."""
    return record_document(report)


def log_report_document(report: LogReport) -> dict[str, Any]:
    """Convert the report of a redrive of a log."""
    return record_document(report)


def bytes_document(data: bytes) -> dict[str, Any]:
    """Convert an input."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def bytes_of(document: Any) -> bytes:
    """Convert the document of an input back. Raises `ValueError`."""
    if isinstance(document, dict):
        fields = cast("dict[str, Any]", document)
        text, encoded = fields.get("text"), fields.get("base64")
        with suppress(binascii.Error, UnicodeEncodeError):
            if isinstance(text, str):
                return text.encode()
            if isinstance(encoded, str):
                return base64.b64decode(encoded, validate=True)
    raise ValueError("input: expected an object with `text`, or with `base64` and valid Base64")


def record_document(record: Struct) -> dict[str, Any]:
    """Convert a record and the records in it: names of their fields in camel case, times as text."""
    return {_camel(name): _plain(getattr(record, name)) for name in record.__struct_fields__}


def record_of(document: Any, kind: type[R], subject: str | None = None) -> R:
    """Convert a document to a record of a type. Unknown names are ignored. Raises `ValueError`."""
    if not isinstance(document, dict):
        raise ValueError(f"{subject or kind.__name__}: expected an object, got {type(document).__name__}")
    return _convert(_snake(cast("dict[str, Any]", document)), kind, subject or kind.__name__)


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return record_document(value)
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _object(document: Any, subject: str, known: Sequence[str]) -> dict[str, Any]:
    """Check that a document is an object that has known names only."""
    if not isinstance(document, dict):
        raise ValueError(f"{subject}: expected an object, got {type(document).__name__}")
    fields = cast("dict[str, Any]", document)
    for name in fields:
        if name not in known:
            similar = suggest(name, known)
            hint = f"; did you mean {similar!r}?" if similar else ""
            raise ValueError(f"{subject}: unknown name {name[:100]!r}; expected one of {', '.join(known)}{hint}")
    return fields


def _convert(fields: Mapping[str, Any], kind: type[R], subject: str) -> R:
    try:
        return msgspec.convert(fields, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ValueError(f"{subject}: {_readable(str(error))}") from None


def _readable(message: str) -> str:
    """Change a message of msgspec, such as "Expected `int`, got `str` - at `$.rate`", to "rate: expected …"."""
    if found := re.fullmatch(r"Expected (.*), got (.*) - at `\$\.?(.*)`", message):
        where = re.sub(r"\w+", lambda word: _camel(word[0]), found[3])
        expected = found[1].replace("float", "number").removesuffix(" | null`")
        return f"{where}: expected {expected}, got {found[2]}".replace("`", "")
    return message[:1].lower() + message[1:].replace("`", "")


def _snake(document: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), name): value for name, value in document.items()}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
