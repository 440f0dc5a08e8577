"""Records and their JSON documents: what is converted and back is the same record, and bad documents are refused."""

import json
import re
from datetime import UTC, datetime

import pytest

from penstock.deadletters import DeadLetter, DeadLetterQuery
from penstock.deadletters.dead_letter_queue import (
    Attempt,
    AuditRecord,
    BatchCounts,
    Edit,
    Group,
    History,
    Job,
    JobOptions,
)
from penstock.redrive.documents import (
    audit_document,
    audit_page_of,
    change_document,
    change_of,
    check_options,
    edit_report_document,
    edit_report_of,
    group_document,
    history_of,
    job_document,
    job_of,
    letter_document,
    letter_of,
    options_document,
    options_of,
    plan_document,
    plan_of,
    query_document,
    query_of,
    record_of,
    try_document,
    try_of,
)
from penstock.redrive.records import AuditPage, Change, EditReport, Plan, PlannedGroup, TryResult
from penstock.support.json_encoding import encode_json

NOON = datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)

LETTER = DeadLetter(
    "0190e0a0-0000-7000-8000-000000000000",
    "orders", "r", 1, "stock", "Late", "no", b'{"a_b":1}', 9, NOON, NOON, part=2, key=1.5, attempts=3,
    cause="x", partial_results={"price_of": {"a_b": 1}}, state="parked", revision=4, redrives=2, header="id,a_b",
)  # fmt: skip

JOB = Job(
    id="j", state="stopped", options=JobOptions(flow="other", canary=(1, 5), stop_at=0.2, rate=50.0, from_start=True),
    query={"flow": "orders", "ids": ["x"]}, requester="me", reason="why", created_at=NOON, ended_at=NOON,
    batches=[BatchCounts(total=6, resolved=1, failed=3, skipped=1)], message="too many", runner="r",
)  # fmt: skip

GROUP = Group(
    id="1-a", flow="f", step="s", type="t", pattern="p", counts={"waiting": 3}, first_seen=NOON, last_seen=NOON,
    first_revision=4, sample="x",
)  # fmt: skip

CHANGES = [Change(id="a", before=b"x", after=b"\xff"), Change(id="b", before=b"\xfe", error="no")]


def over_the_wire(document):
    return json.loads(encode_json(document))


@pytest.mark.parametrize(
    ("record", "convert", "restore"),
    [
        (LETTER, letter_document, letter_of),
        (JOB, job_document, job_of),
        (GROUP, group_document, lambda document: record_of(document, Group)),
        (
            Plan(
                letters=3,
                groups=[PlannedGroup(id="1-a", flow="f", step="s", type="t", pattern="p", letters=3)],
                services={"a_service": 3},
                kept={"price_of": 2},
                seconds=0.5,
                warnings=["w"],
            ),
            plan_document,
            plan_of,
        ),
        (TryResult(id="a", key="k", outcome="ok", value={"orderId": 1, "a_b": [1]}), try_document, try_of),
        (CHANGES[0], change_document, change_of),
        (EditReport(changed=1, unchanged=2, errors=1, samples=CHANGES[1:]), edit_report_document, edit_report_of),
        (
            DeadLetterQuery(flow="f", state="parked", group="1-a", key=3, ids=("a",), since=NOON, until=NOON),
            query_document,
            query_of,
        ),
        (JOB.options, options_document, options_of),
    ],
)
def test_a_record_survives_its_document(record, convert, restore):
    """A record that is sent and read again is equal, whatever its names and bytes are."""
    assert restore(over_the_wire(convert(record))) == record


def test_names_are_in_camel_case_but_names_of_users_are_not():
    """Fields of records are in camel case; names of services and fields of values stay."""
    job = over_the_wire(job_document(JOB))

    assert job["options"]["stopAt"] == 0.2
    assert job["counts"] == {"total": 6, "resolved": 1, "failed": 3, "skipped": 1, "open": 1}
    assert over_the_wire(letter_document(LETTER))["partialResults"] == {"price_of": {"a_b": 1}}


def test_the_history_of_a_letter_is_in_its_document():
    """Attempts and edits are in the document of a letter, and are read from it."""
    history = History(
        [Attempt(number=1, job="j", requester="me", started_at=NOON, ended_at=NOON, outcome="failed", error="E")],
        [Edit(at=NOON, requester="me", reason="why", input=b"\xff", header="id")],
    )

    document = over_the_wire(letter_document(LETTER, history))

    assert letter_of(document) == LETTER
    assert history_of(document) == history


def test_audit_records_are_read_with_the_next_page():
    """A page of the audit keeps its cursor."""
    record = AuditRecord(number=7, at=NOON, requester="me", action="edit", reason="why", query={"a_b": 1}, count=3)
    document = over_the_wire({"records": [audit_document(record)], "next": "7"})

    assert audit_page_of(document) == AuditPage([record], "7")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"canary": [1, 0]}, "canary: expected numbers of letters >= 1, got 0"),
        ({"canary": [1] * 101}, "canary: expected at most 100 batches, got 101"),
        ({"stopAt": 20}, "stopAt: expected a fraction from 0 to 1, got 20.0"),
        ({"stopAt": "20%"}, "options: stopAt: expected number, got str"),
        ({"rate": 0}, "rate: expected a number of letters per second > 0, got 0.0"),
        ({"limit": 0}, "limit: expected a number of redrives from 1 to 1000000, got 0"),
        ({"stop_at": 0.2}, "options: unknown name 'stop_at'; expected one of flow, canary, stopAt"),
        ([], "options: expected an object, got list"),
    ],
)
def test_options_are_checked(document, message):
    """The message names the option, what is expected and what was given."""
    with pytest.raises(ValueError, match=re.escape(message)):
        options_of(document)


def test_default_options_are_accepted():
    """No option is needed."""
    check_options(JobOptions())
    assert options_of({}) == JobOptions()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"flo": "x"}, "query: unknown name 'flo'; expected one of flow, run"),
        ({"state": "lost"}, "query: state: expected one of waiting, claimed, resolved, parked, got 'lost'"),
        ({"since": "noon"}, "since: expected a time like 2030-01-31T12:00:00Z, got 'noon'"),
        ({"ids": "x"}, "query: ids: expected array, got str"),
        ({"min_seq": 1}, "query: unknown name 'min_seq'"),
    ],
)
def test_queries_are_checked(document, message):
    """A condition that is mistyped is refused: it would select more than was meant."""
    with pytest.raises(ValueError, match=re.escape(message)):
        query_of(document)
