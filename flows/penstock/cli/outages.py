"""Describe what happens to a flow while one of its services is down, and check the files of their connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.flow.flow import Flow
from penstock.flowfile.quantities import show_duration
from penstock.services import Breaker, Service
from penstock.services.http_service import HttpRequestSpec
from penstock.steps import walk


def outages(flow: Flow[Any]) -> list[dict[str, Any]]:
    """Return, for each service of a flow, the steps that call it and sentences about its outage."""
    return [
        {
            "service": service.name,
            "steps": [step.name for step in walk(flow.steps) if service in step.services.values()],
            "text": "; ".join(_sentences(flow, service)),
        }
        for service in flow.all_services
    ]


def tls_errors(flow: Flow[Any]) -> Iterator[str]:
    """Yield what is wrong with the files of certificates of the services of a flow."""
    for service in flow.all_services:
        call = service.function
        if isinstance(call, HttpRequestSpec) and call.tls is not None:
            try:
                call.tls.context()
            except ValueError as error:
                yield f"service {service.name}: {error}"


def _sentences(flow: Flow[Any], service: Service) -> Iterator[str]:
    breaker = service.breaker
    if breaker is None:
        tries = "1 attempt" if service.attempts == 1 else f"{service.attempts} attempts"
        yield f"each element that needs it fails after {tries} of at most {_duration(service.timeout)}"
        yield _what_failures_become(flow)
        return
    yield f"after {_trigger(breaker)} its calls wait, and sources pause when the window of their run is full"
    yield _probing(breaker)
    yield f"elements that have waited {_duration(breaker.max_open_wait)} fail as ServiceUnavailable"
    yield _what_failures_become(flow)
    if flow.path_name is not None and flow.serving.refuse_when_open:
        yield "new HTTP requests get 503"


def _trigger(breaker: Breaker) -> str:
    """Return when a breaker opens."""
    if breaker.failure_rate is not None:
        return f"failures of {breaker.failure_rate:.0%} of the last {breaker.window} calls"
    return "a failure" if breaker.failures == 1 else f"{breaker.failures} failures in a row"


def _probing(breaker: Breaker) -> str:
    """Return when a breaker probes the service."""
    if breaker.max_open == breaker.open:
        return f"it is probed every {_duration(breaker.open)}"
    return f"it is probed after {_duration(breaker.open)}, then less often, up to every {_duration(breaker.max_open)}"


def _what_failures_become(flow: Flow[Any]) -> str:
    if flow.store is None:
        return "their failures are reported, and stored only by penstock serve, in its --dead-letters"
    if flow.auto_redrive is not None:
        return "they become dead letters, which are redriven when it works again"
    return "they become dead letters"


def _duration(seconds: float) -> str:
    """Format a duration: 5m, 30s."""
    shown = show_duration(seconds)
    return shown if isinstance(shown, str) else f"{shown:g}s"
