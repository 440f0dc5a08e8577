"""The metrics of a service with several processes that none of them has: those of the parent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from penstock_http.processes.resources import ProcessCounts

PROCESS_UP = "penstock_process_up"
PROCESS_RESTARTS = "penstock_process_restarts_total"
SERIES = (PROCESS_UP, PROCESS_RESTARTS)
"""The full names of the series."""

RESTART_REASONS = ("crashed", "frozen")


class SupervisionCollector(Collector):
    """Which processes answer, and how often one was started again."""

    def __init__(self, answers: Mapping[int, object | None], counts: ProcessCounts) -> None:
        self._up = {number: up and answers.get(number, b"") is not None for number, up in counts.up.items()}
        self._up |= {number: answer is not None for number, answer in answers.items() if number not in counts.up}
        self._restarts = dict.fromkeys(RESTART_REASONS, 0) | counts.restarts

    def collect(self) -> Iterator[Metric]:
        """Yield the series."""
        up = GaugeMetricFamily(
            PROCESS_UP,
            "Whether a process of the service responds",
            labels=["process"],
        )
        for number, answers in sorted(self._up.items()):
            up.add_metric([str(number)], answers)
        yield up
        restarts = CounterMetricFamily(PROCESS_RESTARTS, "Processes that the parent started again", labels=["reason"])
        for reason, count in self._restarts.items():
            restarts.add_metric([reason], count)
        yield restarts

    def describe(self) -> Iterable[Metric]:
        """Return nothing."""
        return ()


def supervision_registry(answers: Mapping[int, object | None], counts: ProcessCounts) -> CollectorRegistry:
    """Return a registry of what the parent knows. `answers` are those to the question that was just asked."""
    registry = CollectorRegistry()
    registry.register(SupervisionCollector(answers, counts))
    return registry


def parent_registry() -> CollectorRegistry:
    """Return a registry of the memory, the CPU time and the files of the parent process."""
    registry = CollectorRegistry()
    ProcessCollector(pid=os.getppid, registry=registry)
    return registry
