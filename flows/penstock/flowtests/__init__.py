"""Tests of flows in virtual time: what a test says, how it is played by the real engine, and how it is judged."""

from penstock.flowtests.execute import FlowTestRun, run_test
from penstock.flowtests.forms import CASES
from penstock.flowtests.load import load_tests
from penstock.flowtests.models import FlowTest
from penstock.flowtests.verdict import FlowTestResult, verify

__all__ = ["CASES", "FlowTest", "FlowTestResult", "FlowTestRun", "load_tests", "run_test", "verify"]
