"""The retry policy, the backoff and the rate limiter of services: pure decisions, without a queue or an event loop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import Service
from penstock.errors import ServiceErrorResponse
from penstock.services.retry import NONE, Backoff, GiveUp, RateLimiter, RetryIn, RetryPolicy, is_retryable
from penstock.testing import run


def policy(max_attempts: int = 3, backoff: Backoff = NONE, retry_on=is_retryable) -> RetryPolicy:
    return RetryPolicy(max_attempts, backoff, retry_on, random.Random(1))


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_last_attempt_is_final(max_attempts: int, attempt: int) -> None:
    """Earlier attempts are repeated, at once without a backoff."""
    error = ValueError()
    decision = policy(max_attempts).decide(attempt, error)
    if attempt < max_attempts:
        assert decision == RetryIn(0.0)
    else:
        assert isinstance(decision, GiveUp)
        assert decision.error is error


def test_an_error_that_is_not_retryable_is_final() -> None:
    """Whatever the number of attempts."""

    class Final(Exception):
        retryable = False

    assert isinstance(policy().decide(1, Final()), GiveUp)


def test_a_bug_in_retry_on_replaces_the_error() -> None:
    """The error of the call is its cause."""
    error = ValueError()

    def broken(_: BaseException) -> bool:
        raise KeyError("bug")

    decision = policy(retry_on=broken).decide(1, error)
    assert isinstance(decision, GiveUp)
    assert (type(decision.error), decision.error.__cause__) == (KeyError, error)


@given(st.integers(1, 2000), st.none() | st.floats(0, 100))
def test_the_wait_is_at_least_retry_after_and_at_most_the_cap(attempt: int, retry_after: float | None) -> None:
    """However many attempts were made."""
    backoff = Backoff(first=0.1, cap=5)
    decision = policy(9999, backoff).decide(attempt, ServiceErrorResponse("s", 503, "busy", retry_after))
    assert isinstance(decision, RetryIn)
    assert min(retry_after or 0.0, 5) <= decision.seconds <= 5


@pytest.mark.parametrize("wrong", [{"first": -1}, {"factor": 0.5}, {"cap": -1}])
def test_an_invalid_backoff_is_rejected(wrong: dict[str, float]) -> None:
    """The message names the limits."""
    with pytest.raises(ValueError, match="backoff: expected first >= 0, factor >= 1 and cap >= 0"):
        Backoff(**wrong)


def test_calls_are_spaced_evenly_without_a_burst_after_a_pause() -> None:
    """A time slot that was not used is lost."""
    limiter = RateLimiter(10)
    assert [limiter.reserve(now) for now in (0.0, 0.0, 5.0, 5.0)] == pytest.approx([0.0, 0.1, 0.0, 0.1])


def test_statistics_are_a_record_of_the_moment() -> None:
    """It does not change when the service goes on."""

    async def main() -> None:
        service = Service("s", len, attempts=2, backoff=NONE, max_in_flight=7)
        before = service.statistics()
        queue = service.open_queue(lambda calls, results: None)
        queue.submit([type("Call", (), {"value": value})() for value in ("ab", 5)])
        await queue.aclose()
        assert (before.results["ok"], before.retries, before.max_in_flight) == (0, 0, 7)
        with pytest.raises(AttributeError):
            before.retries = 1  # type: ignore[misc]

    run(main())
