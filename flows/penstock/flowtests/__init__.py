"""Tests of flows: their forms in files, running them in virtual time, and comparing their results."""

from penstock.flowtests.execute import FlowTestRun, run_test
from penstock.flowtests.load import TestedFlow, check_tests, load
from penstock.flowtests.models import TESTS, FlowTest
from penstock.flowtests.verdict import FlowTestResult, verify

__all__ = [
    "TESTS",
    "FlowTest",
    "FlowTestResult",
    "FlowTestRun",
    "TestedFlow",
    "check_tests",
    "load",
    "run_test",
    "verify",
]
