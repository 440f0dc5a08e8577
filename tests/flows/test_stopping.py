"""The phases of stopping: every event in every phase."""

from __future__ import annotations

import pytest

from penstock.runtime.shutdown import Event, Phase, next_phase

WHAT_FOLLOWS = {
    Phase.SERVING: {Event.SIGNAL: Phase.DRAINING},
    Phase.DRAINING: {
        Event.SIGNAL: Phase.ABORTING,
        Event.GRACE_EXPIRED: Phase.ABORTING,
        Event.ALL_RUNS_ENDED: Phase.STOPPED,
    },
    Phase.ABORTING: {
        Event.SIGNAL: Phase.EXITING,
        Event.HARD_TIMEOUT: Phase.EXITING,
        Event.ALL_RUNS_ENDED: Phase.STOPPED,
    },
    Phase.STOPPED: {Event.SIGNAL: Phase.DISCONNECTING, Event.HARD_TIMEOUT: Phase.EXITING},
    Phase.DISCONNECTING: {Event.SIGNAL: Phase.EXITING, Event.HARD_TIMEOUT: Phase.EXITING},
    Phase.EXITING: {},
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_each_event_in_each_phase(phase: Phase, event: Event) -> None:
    """The whole table; whatever it does not name changes nothing."""
    assert next_phase(phase, event) is WHAT_FOLLOWS[phase].get(event, phase)


@pytest.mark.parametrize("phase", Phase)
def test_no_event_leads_back(phase: Phase) -> None:
    """Stopping goes one way."""
    order = list(Phase)

    assert all(order.index(next_phase(phase, event)) >= order.index(phase) for event in Event)


def test_three_signals_always_end_the_process() -> None:
    """Whoever signals three times is heard, stuck or not."""
    phase = Phase.SERVING
    for _ in range(3):
        phase = next_phase(phase, Event.SIGNAL)

    assert phase is Phase.EXITING
