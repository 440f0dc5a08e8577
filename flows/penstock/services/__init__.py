"""What steps call: services, behind bulkheads that all runs of the process share."""

from penstock.services.backoff import NONE, Backoff
from penstock.services.lane import Failed, Lane
from penstock.services.service import MAX_IN_FLIGHT, Service
from penstock.services.tries import worth_another

__all__ = ["MAX_IN_FLIGHT", "NONE", "Backoff", "Failed", "Lane", "Service", "worth_another"]
