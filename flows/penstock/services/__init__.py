"""Services: what steps call, behind bulkheads that all runs of the process share."""

from penstock.services.adaptive_limit import AdaptiveLimit
from penstock.services.availability import DownService, first_down
from penstock.services.call_queue import CallFailed, CallQueue
from penstock.services.circuit_breaker import DEFAULT_BREAKER, Breaker
from penstock.services.retry import NONE, Backoff, is_retryable
from penstock.services.service import MAX_IN_FLIGHT, TIMEOUT, Service, ServiceStatistics

__all__ = [
    "DEFAULT_BREAKER",
    "MAX_IN_FLIGHT",
    "NONE",
    "TIMEOUT",
    "AdaptiveLimit",
    "Backoff",
    "Breaker",
    "CallFailed",
    "CallQueue",
    "DownService",
    "Service",
    "ServiceStatistics",
    "first_down",
    "is_retryable",
]
