"""What several processes report is merged: metrics as text, flows and readiness as documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from penstock_http.aggregate.flows import merge_flow, merge_flows
from penstock_http.aggregate.health import merge_readiness
from penstock_http.aggregate.metrics import WithProcess, merge_metrics

Samples = set[tuple[str, tuple[tuple[str, str], ...], float, str | None]]

ODD = 'a\nb # HELP c "d" \\ {e="f"} 1'
"""A label value that looks like other parts of the text."""


def registry(number: int) -> CollectorRegistry:
    """The metrics of a process, of which some are in the first one only."""
    found = CollectorRegistry()
    Counter("requests", 'Requests\n# HELP of "all" kinds', ["route"], registry=found).labels(ODD).inc(number)
    Gauge("open", "Open", registry=found).set(number)
    times = Histogram("seconds", "Time", ["step"], buckets=(1, 2), registry=found)
    times.labels("é").observe(number, {"trace": f"t{number}"})
    Gauge("without_samples", "None yet", ["flow"], registry=found)
    Info("build", "Build", registry=found).info({"version": str(number)})
    if number == 1:
        Counter("first", "Only in the first", registry=found).inc()
    return found


def samples(parse: Callable[[str], Any], text: bytes, **labels: str) -> Samples:
    """The samples in a text, with further labels and their exemplars."""
    return {
        (sample.name, tuple(sorted((sample.labels | labels).items())), sample.value, str(sample.exemplar))
        for family in parse(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.parametrize(
    ("generate", "parse"),
    [
        (generate_latest, text_string_to_metric_families),
        (generate_openmetrics, openmetrics.text_string_to_metric_families),
    ],
    ids=["text", "openmetrics"],
)
def test_merged_metrics_are_those_of_all_processes(
    generate: Callable[[Any], bytes], parse: Callable[[str], Any]
) -> None:
    """Each sample has the label `process`; each family is described once, as strict parsers require."""
    registries = {str(number): registry(number) for number in (1, 2, 3)}
    common = CollectorRegistry()
    Gauge("up", "Of all", ["process"], registry=common).labels("4").set(0)
    labelled = [WithProcess(found, process) for process, found in registries.items()]
    merged = merge_metrics([generate(each) for each in (common, *labelled)])
    expected = samples(parse, generate(common))
    for process, found in registries.items():
        expected |= samples(parse, generate(found), process=process)
    assert samples(parse, merged) == expected
    assert len(expected) == 1 + 3 * 8 + 1
    heads = [line for line in merged.splitlines() if line.startswith((b"# HELP", b"# TYPE", b"# EOF"))]
    assert len(heads) == len(set(heads))


def service(state: str, in_flight: int, probe: float | None = None, opened: int = 0) -> dict[str, Any]:
    """A service, as a process describes it."""
    return {
        "name": "pricing",
        "maxInFlight": 10,
        "inFlight": in_flight,
        "limit": 5,
        "waiting": 1,
        "retries": 2,
        "calls": {"ok": in_flight, "error": 1},
        "pacedSeconds": 0.5 * in_flight,
        "breaker": {"state": state, "opened": opened, "openSeconds": float(opened), "nextProbeSeconds": probe},
    }


def flow(number: int, runs: int, services: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A flow, as a process describes it."""
    at = f"2026-0{number}"
    revision = {"number": number, "digest": f"d{number}", "state": "active", "runs": runs, "loadedAt": at}
    return {
        "name": "orders",
        "description": f"revision {number}",
        "active": number,
        "revisions": [revision],
        "services": services,
        "lastReload": {"at": at, "outcome": "accepted"},
        "runs": {"http": runs},
        "received": 10 * runs,
        "inFlight": runs,
        "settled": {"ok": 9 * runs, "failed": 0},
        **changes,
    }


def test_a_flow_has_the_sums_of_all_processes() -> None:
    """The definition is that of the newest revision, and each revision is listed once, with the runs of all."""
    open_one, closed = service("open", 3, probe=2.5, opened=2), service("closed", 4)
    drained = flow(2, 2, [closed])
    drained["revisions"].append(flow(1, 4, [])["revisions"][0] | {"state": "draining"})
    merged = merge_flow({2: flow(1, 1, [open_one]), 1: drained})
    assert (merged["description"], merged["active"]) == ("revision 2", 2)
    assert (merged["runs"], merged["received"], merged["inFlight"]) == ({"http": 3}, 30, 3)
    assert merged["settled"] == {"ok": 27, "failed": 0}
    assert merged["lastReload"]["at"] == "2026-02"
    assert [(each["number"], each["runs"], each["state"]) for each in merged["revisions"]] == [
        (2, 2, "active"),
        (1, 5, "active"),
    ]
    (pricing,) = merged["services"]
    assert (pricing["maxInFlight"], pricing["inFlight"], pricing["limit"], pricing["retries"]) == (10, 7, 10, 4)
    assert (pricing["calls"], pricing["pacedSeconds"]) == ({"ok": 7, "error": 2}, 2.0)
    assert pricing["breaker"] == {"state": "open", "opened": 2, "openSeconds": 2.0, "nextProbeSeconds": 2.5}
    assert pricing["processes"] == [
        {"process": 1, "breaker": "closed", "inFlight": 4, "limit": 5, "waiting": 1},
        {"process": 2, "breaker": "open", "inFlight": 3, "limit": 5, "waiting": 1},
    ]


def test_a_flow_that_only_some_processes_serve_is_listed() -> None:
    """For example while it is removed: one process has ended its last run, and another one has not."""
    removed = flow(1, 1, [], name="gone", active=None, lastReload=None)
    merged = merge_flows({1: [flow(1, 1, [])], 2: [flow(1, 1, []), removed]})
    assert [(each["name"], each["received"]) for each in merged] == [("orders", 20), ("gone", 10)]


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({1: {"status": "ready"}, 2: {"status": "ready"}}, "ready"),
        ({1: None, 2: {"status": "ready"}}, "ready"),
        ({1: {"status": "draining"}, 2: {"status": "ready"}}, "ready"),
        ({1: {"status": "draining"}, 2: None}, "draining"),
        ({1: None, 2: None}, "no_answer"),
        ({1: {"status": "ready"}, 2: {"status": "dead_letters_unusable", "stores": ["a"]}}, "dead_letters_unusable"),
    ],
)
def test_one_process_that_is_ready_is_enough(answers: Any, status: str) -> None:
    """But not if dead letters cannot be stored, which concerns all of them."""
    merged = merge_readiness(answers)
    assert merged["status"] == status
    assert [each["process"] for each in merged["processes"]] == [1, 2]
    assert merged.get("stores") == (["a"] if status == "dead_letters_unusable" else None)


def test_a_process_that_starts_is_shown_and_changes_nothing() -> None:
    """Unlike one that does not answer, it is no reason to look into its log."""
    merged = merge_readiness({1: {"status": "ready"}, 2: None, 3: None}, [3])
    assert merged["status"] == "ready"
    assert [each["status"] for each in merged["processes"]] == ["ready", "no_answer", "starting"]
    assert merge_readiness({1: {"status": "draining"}, 2: None, 3: None}, [2])["status"] == "draining"
