"""Flows, and functions that run tests of them, for the tests of flow tests."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from penstock import Flow
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.reader import read_document
from penstock.flowtests import TESTS, FlowTest, FlowTestResult, check_tests, run_test, verify
from penstock.orders import orders_flow


class Folder:
    """A sink that no test may use."""

    def __init__(self, name: str = "audit") -> None:
        self.name = name

    async def open(self) -> None:
        raise AssertionError("a test opened a sink")

    async def write(self, values: Any) -> None:
        raise AssertionError("a test wrote to a sink")

    async def aclose(self) -> None:
        raise AssertionError("a test closed a sink")


ORDERS: Flow[Any] = orders_flow().samples(lambda number: {"orderId": number})
DELIVERED = ORDERS.to(Folder())


def cases(text: str, flow: Flow[Any] = ORDERS) -> tuple[FlowTest, ...]:
    """Return the tests of a section `tests`. Raises `FlowFileError` with its errors."""
    diagnostics = Diagnostics()
    read = TESTS.read(read_document(dedent(text), "orders.yaml"), diagnostics)
    found = () if read is MISSING else check_tests(read, flow, diagnostics)
    diagnostics.check()
    return found


def verdict(text: str, flow: Flow[Any] = ORDERS) -> FlowTestResult:
    """Run one test, which is written without its name."""
    text = dedent(text).strip()
    lines = [f"{{name: a test, {text[1:]}"] if text.startswith("{") else ["name: a test", *text.splitlines()]
    (case,) = cases("- " + "\n  ".join(lines), flow)
    return verify(run_test(flow, case))


def found(text: str, flow: Flow[Any] = ORDERS) -> list[str]:
    """Run one test and return its differences."""
    return [str(difference) for difference in verdict(text, flow).differences]
