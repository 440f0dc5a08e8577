"""The operations of a dead-letter queue as functions of a connection, for all SQL databases.

Each one runs in a transaction of its caller: on SQLite in a thread, inside `BEGIN IMMEDIATE`; on PostgreSQL by
`AsyncConnection.run_sync`. Operations on sets of any size take and return a `Progress`, and are called in further
transactions until they are done.
"""

from penstock.deadletters.sql.operations.audit import Progress, read_audit
from penstock.deadletters.sql.operations.claims import claim
from penstock.deadletters.sql.operations.job_creation import JobCreation
from penstock.deadletters.sql.operations.jobs import acquire_job, change_job, find_job, list_jobs
from penstock.deadletters.sql.operations.leases import has_expired, release_expired
from penstock.deadletters.sql.operations.letters import (
    add,
    delete_letters,
    edit,
    import_letters,
    mark,
    purge,
    update_state,
)
from penstock.deadletters.sql.operations.outbox import count_uncopied, mark_copied, postpone_uncopied, take_uncopied
from penstock.deadletters.sql.operations.reading import count, get, groups, history, oldest_waiting, page
from penstock.deadletters.sql.operations.retention import expire, forget_ended_jobs, has_ended_jobs
from penstock.deadletters.sql.operations.settling import settle

__all__ = [
    "JobCreation",
    "Progress",
    "acquire_job",
    "add",
    "change_job",
    "claim",
    "count",
    "count_uncopied",
    "delete_letters",
    "edit",
    "expire",
    "find_job",
    "forget_ended_jobs",
    "get",
    "groups",
    "has_ended_jobs",
    "has_expired",
    "history",
    "import_letters",
    "list_jobs",
    "mark",
    "mark_copied",
    "oldest_waiting",
    "page",
    "postpone_uncopied",
    "purge",
    "read_audit",
    "release_expired",
    "settle",
    "take_uncopied",
    "update_state",
]
