"""What the tests of trials share: flows to test, and sections `tests` written down."""

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
    """An outlet outside of the machine: no test may touch it."""

    def __init__(self, name: str = "audit") -> None:
        self.name = name

    async def open(self) -> None:
        raise AssertionError("a test opened an outlet")

    async def write(self, values: Any) -> None:
        raise AssertionError("a test wrote to an outlet")

    async def aclose(self) -> None:
        raise AssertionError("a test closed an outlet")


ORDERS: Flow[Any] = orders_flow().samples(lambda number: {"orderId": number})
DELIVERED = ORDERS.to(Folder())


def cases(text: str, flow: Flow[Any] = ORDERS) -> tuple[FlowTest, ...]:
    """The tests that a section `tests` has; raises `FlowFileError` for its mistakes."""
    mistakes = Diagnostics()
    read = TESTS.read(read_document(dedent(text), "orders.yaml"), mistakes)
    found = () if read is MISSING else check_tests(read, flow, mistakes)
    mistakes.check()
    return found


def verdict(text: str, flow: Flow[Any] = ORDERS) -> FlowTestResult:
    """The verdict on one test, written without its name."""
    text = dedent(text).strip()
    lines = [f"{{name: a test, {text[1:]}"] if text.startswith("{") else ["name: a test", *text.splitlines()]
    (case,) = cases("- " + "\n  ".join(lines), flow)
    return verify(run_test(flow, case))


def found(text: str, flow: Flow[Any] = ORDERS) -> list[str]:
    """What a test finds fault with."""
    return [str(difference) for difference in verdict(text, flow).differences]
