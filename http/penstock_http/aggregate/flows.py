"""Merge how several processes describe one flow: its counts are added up, the rest is the same in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Document: TypeAlias = "dict[str, Any]"
"""A part of a response, as JSON values."""

BREAKER_STATES = ("closed", "half_open", "open")
"""The states of a circuit breaker, the best first."""

COUNTS = ("inFlight", "limit", "waiting", "retries")
"""The numbers of a service that are added up."""


def merge_flows(answers: Mapping[int, Sequence[Document]]) -> list[Document]:
    """Return each flow that a process describes once. `answers` are the flows by the number of the process."""
    found: dict[str, dict[int, Document]] = {}
    for process, flows in answers.items():
        for flow in flows:
            found.setdefault(flow["name"], {})[process] = flow
    return [merge_flow(documents) for documents in found.values()]


def merge_flow(documents: Mapping[int, Document]) -> Document:
    """Return one flow, as its processes describe it.

    Processes differ while a deployment is under way: the definition is that of the newest revision.
    """
    newest = max(documents.values(), key=lambda document: document["active"] or 0)
    every = list(documents.values())
    return newest | {
        "services": [_merge_service(service["name"], documents) for service in newest["services"]],
        "revisions": _merge_revisions(revision for document in every for revision in document["revisions"]),
        "lastReload": newest_result(document["lastReload"] for document in every),
        "runs": _sum(document["runs"] for document in every),
        "received": sum(document["received"] for document in every),
        "inFlight": sum(document["inFlight"] for document in every),
        "settled": _sum(document["settled"] for document in every),
    }


def newest_result(results: Iterable[Document | None]) -> Document | None:
    """Return the result of the last deployment or reload, of those that processes remember."""
    return max((result for result in results if result is not None), key=lambda result: result["at"], default=None)


def merge_graph_counts(counts: Sequence[Document]) -> Document:
    """Return the sums of the counts in graphs: numbers, dead letters by step, and numbers by service."""
    numbers = {name for each in counts for name, count in each.items() if isinstance(count, int)}
    services = {name for each in counts for name in each["services"]}
    return {
        **{name: sum(each[name] for each in counts) for name in numbers},
        "dead_letters": _sum(each["dead_letters"] for each in counts),
        "services": {name: _sum(each["services"].get(name, {}) for each in counts) for name in services},
    }


def _merge_revisions(revisions: Iterable[Document]) -> list[Document]:
    """Return each revision once, the newest first: with the runs of all processes, active if it is so in one."""
    found: dict[tuple[int, str], Document] = {}
    for revision in revisions:
        key = (revision["number"], revision["digest"])
        same = found.setdefault(key, revision | {"runs": 0})
        active = "active" in (same["state"], revision["state"])
        found[key] = same | {
            "runs": same["runs"] + revision["runs"],
            "state": "active" if active else revision["state"],
            "loadedAt": min(same["loadedAt"], revision["loadedAt"]),
        }
    return [found[key] for key in sorted(found, reverse=True)]


def _merge_service(name: str, documents: Mapping[int, Document]) -> Document:
    """Return one service of a flow: the sums of its counts, the worst state of its breakers, and each process."""
    parts: dict[int, Document] = {
        process: service
        for process, flow in sorted(documents.items())
        for service in flow["services"]
        if service["name"] == name
    }
    services = list(parts.values())
    return services[0] | {
        **{count: sum(service[count] for service in services) for count in COUNTS},
        "maxInFlight": max(service["maxInFlight"] for service in services),
        "calls": _sum(service["calls"] for service in services),
        "pacedSeconds": max(service["pacedSeconds"] for service in services),
        "breaker": _merge_breakers([service["breaker"] for service in services]),
        "processes": [
            {"process": process, "breaker": service["breaker"] and service["breaker"]["state"]}
            | {count: service[count] for count in ("inFlight", "limit", "waiting")}
            for process, service in parts.items()
        ],
    }


def _merge_breakers(breakers: Sequence[Document | None]) -> Document | None:
    """Return the worst state, how often the breakers opened, the longest time, and the next probe of them all."""
    known = [breaker for breaker in breakers if breaker is not None]
    if not known:
        return None
    probes = [breaker["nextProbeSeconds"] for breaker in known if breaker["nextProbeSeconds"] is not None]
    return {
        "state": max((breaker["state"] for breaker in known), key=BREAKER_STATES.index),
        "opened": sum(breaker["opened"] for breaker in known),
        "openSeconds": max(breaker["openSeconds"] for breaker in known),
        "nextProbeSeconds": min(probes, default=None),
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts by name, in the order in which the names come."""
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
