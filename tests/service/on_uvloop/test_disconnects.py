"""Clients that disconnect, on uvloop: also while reading is paused, which no event loop reports."""

from __future__ import annotations

from service import test_disconnects as tests

FLAGS = tests.FLAGS
TestDisconnect = tests.TestDisconnect
hanging = tests.hanging
test_a_disconnect_cancels_service_calls = tests.test_a_disconnect_cancels_service_calls
