"""The examples: each does what its docstring says, with what every user may import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from laws.plans import quiet
from penstock import Result

EXAMPLES = Path(__file__).parents[2] / "flows" / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


def load(name: str) -> ModuleType:
    """An example as a module; it runs nothing when it is imported."""
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failures(results: list[Result]) -> dict[int, Any]:
    """Type of error, attempts and key of what failed, by its place in the input."""
    return {
        result.seq: (result.failure.type, result.failure.attempts, result.key) for result in results if result.failure
    }


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_is_short_and_stands_on_public_names(program: Path) -> None:
    """At most sixty lines, a docstring, and of Penstock only faces: modules that gather names for their users."""
    text = program.read_text(encoding="utf-8")
    tree = ast.parse(text)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}

    assert ast.get_docstring(tree)
    assert text.count("\n") < 60
    assert {name for name in modules if name.startswith("penstock")} <= {
        "penstock",
        "penstock.observe",
        "penstock.services",
        "penstock.sinks",
        "penstock.sources",
    }


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_runs_from_the_command_line(program: Path) -> None:
    """With nothing to read, nothing to set and nothing to complain about."""
    done = subprocess.run([sys.executable, program], input="", capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_orders_answer_for_every_line() -> None:
    """A result for each line on standard output and nothing else; the count on standard error."""
    lines = b'{"orderId":1,"customer":"c1"}\n{"orderId":2}\n{"orderId":"three"}\noops\n{"orderId":5}\n'
    done = subprocess.run([sys.executable, EXAMPLES / "orders.py"], input=lines, capture_output=True, timeout=30)
    told = {record["seq"]: record for record in map(json.loads, done.stdout.splitlines())}

    assert [told[seq]["ok"] for seq in range(5)] == [True, True, False, False, False]
    assert told[0]["value"] == {
        "orderId": 1,
        "customer": "c1",
        "pricing": {"price": 1001},
        "inventory": {"inStock": True},
    }
    assert [told[seq]["error"]["step"] for seq in (2, 3, 4)] == ["decode", "decode", "inventory"]
    assert all("deadLetter" in told[seq] for seq in (2, 3, 4))
    assert done.stderr.decode().endswith("5 received, 2 ok, 3 failed\n")


def test_a_payment_is_made_once() -> None:
    """Lost answers are asked for again under the same key; what the bank refused is not tried a second time."""
    example = load("payments")
    provider = example.Provider()
    results = quiet(example.main(provider))

    assert failures(results) == {1: ("CardRefused", 1, 2)}
    assert provider.taken == {f"payment-{number}": 200.0 * number for number in (1, 3, 4, 5)}


def test_payments_keep_to_their_rate() -> None:
    """Ten a second after a burst of two: the fifth starts no earlier than 0.3 s."""
    example = load("payments")
    starts: list[float] = []

    async def main() -> None:
        provider = example.Provider()
        pay = provider.pay

        async def noted(payment: dict[str, Any]) -> dict[str, Any]:
            if payment["key"] not in provider.taken:
                starts.append(example.asyncio.get_running_loop().time())
            return dict(await pay(payment))

        provider.pay = noted
        await example.main(provider)

    quiet(main())
    assert starts == pytest.approx([0, 0, 0.1, 0.2, 0.3])


def test_addresses_are_checked_in_few_calls() -> None:
    """200 addresses, 4 calls, and every answer with its own address."""
    example = load("addresses")
    results = quiet(example.main())

    assert example.checker.succeeded == 4
    assert [result.seq for result in results] == list(range(200))
    assert set(failures(results)) == set(range(3, 200, 4))
    assert {(result.value.id % 4, result.value.city) for result in results if result.ok} == {
        (0, "Berlin"),
        (1, "Hamburg"),
        (2, "München"),
    }


def test_an_event_is_told_to_all_its_subscribers() -> None:
    """One that is away does not keep the others from being told; the event then has one dead letter."""
    results = quiet(load("webhooks").main())

    assert sorted((result.key, result.part, result.ok) for result in results) == [
        (1, 0, True),
        (1, 1, True),
        (1, 2, True),
        (2, 0, True),
        (2, 1, False),
    ]
    assert failures(results) == {1: ("ConnectionError", 3, 2)}
