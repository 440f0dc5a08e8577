"""Clients that stall, on uvloop, and slow ones that do not."""

from __future__ import annotations

from service import test_stalls as tests

FLAGS = tests.FLAGS
test_a_client_that_reads_nothing_stalls = tests.test_a_client_that_reads_nothing_stalls
test_a_slow_reader_does_not_stall = tests.test_a_slow_reader_does_not_stall
