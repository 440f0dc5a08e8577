"""Merge what the processes report about their readiness."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

Document: TypeAlias = "dict[str, Any]"

READY = "ready"
UNUSABLE = "dead_letters_unusable"
NOT_WORKING = "not_working"
"""The status of a process that only runs workers, and one of them cannot receive or write."""
NO_ANSWER = "no_answer"
"""The status of a process that did not answer in time: it ends, or it is frozen."""
STARTING = "starting"
"""The status of a process that starts, or will be started again."""


def merge_readiness(answers: Mapping[int, Document | None], starting: Collection[int] = ()) -> Document:
    """Return the readiness of the service, with the status of each process, by its number.

    `starting` are the numbers of processes that start. One process that is ready is enough. A dead-letter store that is
    unusable for one is so for all of them, and the service is not ready. Nor is it while a worker cannot receive or
    write, which may run in one process only.
    """
    found = {
        process: answer or {"status": STARTING if process in starting else NO_ANSWER}
        for process, answer in sorted(answers.items())
    }
    statuses = [answer["status"] for answer in found.values()]
    processes = [{"process": process, "status": answer["status"]} for process, answer in found.items()]
    stores = sorted({store for answer in found.values() for store in answer.get("stores", ())})
    if stores:
        return {"status": UNUSABLE, "stores": stores, "processes": processes}
    if any(answer["status"] == NOT_WORKING for answer in found.values()):
        unavailable = {
            kind: sorted({name for answer in found.values() for name in answer.get(kind, ())})
            for kind in ("workers", "sinks")
        }
        return {"status": NOT_WORKING, **unavailable, "processes": processes}
    answered = (each for each in statuses if each not in (NO_ANSWER, STARTING))
    status = READY if READY in statuses else next(answered, NO_ANSWER)
    return {"status": status, "processes": processes}
