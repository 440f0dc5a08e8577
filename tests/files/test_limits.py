"""A flow file has limits: no small file takes long to check, and no report of mistakes is endless."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from invoking import invoke
from penstock.errors import FlowFileError
from penstock.flowfile import load, loads
from penstock.flowfile.discovery import flow_files
from penstock.flowfile.limits import MAX_BYTES
from penstock.flowtests.load import load as load_with_tests
from penstock.support.environment import substitute, variable_names


def mistakes(text: str) -> list[str]:
    """All that is reported, a line each."""
    with pytest.raises(FlowFileError) as caught:
        loads(text, "a.yaml", environment={})
    return str(caught.value).splitlines()


def steps(number: int) -> str:
    return "steps:\n" + "- throttle: 1/s\n" * number


def named(section: str, number: int, value: str) -> str:
    return f"{section}:\n" + "".join(f"  n{each}: {value}\n" for each in range(number))


def templates(number: int, size: int, first: str) -> str:
    """Templates of which each applies the one before several times."""
    rest = "".join(f"  t{n}: [{', '.join([f'{{apply: t{n - 1}}}'] * size)}]\n" for n in range(1, number))
    return f"templates:\n  t0: {first}\n{rest}steps: [{{apply: t{number - 1}}}]\n"


CHAIN = templates(30, 1, "[{throttle: 1/s}]")
SERVICE = '{get: "http://h"}'
WORKER = "{source: {ticks: 1s}}"
TESTS = "tests:\n" + "- {name: a, given: [], expect: {}}\n" * 1001

TOO_MUCH = {
    "bytes": ("description: " + "x" * MAX_BYTES, "a.yaml:1:1: more than 1048576 bytes", "split the flow"),
    "steps": (steps(1001), "a.yaml:1003:3: more than 1000 steps", "split the flow"),
    "steps in templates": (
        "templates: {t: [" + "{throttle: 1/s}, " * 600 + "]}\n" + steps(500),
        "more than 1000 steps",
        "split the flow",
    ),
    "steps in branches": (
        "steps:\n- route: {a: {steps: [" + "{throttle: 1/s}, " * 1000 + "]}}\n",
        "more than 1000 steps",
        "split the flow",
    ),
    "steps of templates": (templates(5, 10, "[{throttle: 1/s}]"), "more than 1000 steps", "each template"),
    "templates of nothing": (templates(9, 10, "[]"), "more than 1000 steps", "each template"),
    "templates in templates": (CHAIN, "nested more than 25 deep", "fewer"),
    "services": (named("services", 201, SERVICE), "a.yaml:203:3: more than 200 services", "split"),
    "templates": (named("templates", 101, "[]"), "a.yaml:103:3: more than 100 templates", "split"),
    "workers": (named("workers", 51, WORKER), "a.yaml:53:3: more than 50 workers", "split"),
    "tests": (TESTS, "a.yaml:1003:3: more than 1000 tests", "split"),
    "include": (f"include: [{', '.join(f'{n}.yaml' for n in range(21))}]", "more than 20 included files", "split"),
    "an expression": ("steps:\n- filter: " + "1+" * 5001 + "1 > 1", "more than 10000 characters", "in an expression"),
    "cron": ("workers: {w: {source: {ticks: 1s}, cron: '" + "1," * 99 + "1 * * * *'}}", "of 207 characters", "200"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_of_anything_is_one_mistake_at_its_place(what: str) -> None:
    """It says what was found, and what the limit is."""
    text, found, wanted = TOO_MUCH[what]
    lines = mistakes(f"flow: f\n{text}")
    assert [found in line and wanted in line for line in lines] == [True], lines


def test_expressions_have_a_limit_together() -> None:
    """30 of 9,000 characters are more than 200,000."""
    text = "steps:\n" + f"- filter: value.a in [{'1,' * 4450}1]\n" * 30
    (line,) = mistakes(f"flow: f\n{text}")
    assert "more than 200000 characters of expressions up to here" in line


def test_a_flow_at_the_limits_is_loaded() -> None:
    """1,000 steps, 200 services, 50 workers."""
    text = steps(1000) + named("services", 200, SERVICE) + named("workers", 50, WORKER)
    flow = loads(f"flow: f\n{text}", "a.yaml", environment={}).flow
    assert (len(flow.steps), len(flow.workers)) == (1000, 50)


def test_limits_hold_for_all_files_of_a_flow_together(tmp_path: Path) -> None:
    """The files that it uses and its tests count."""
    (tmp_path / "a.yaml").write_text(f"flow: f\ninclude: [b.yaml]\n{steps(600)}")
    (tmp_path / "b.yaml").write_text("templates: {t: [" + "{throttle: 1/s}, " * 401 + "]}\n")
    (tmp_path / "c.yaml").write_text("flow: g\ndescription: " + "x" * (MAX_BYTES // 2))
    (tmp_path / "c.test.yaml").write_text("tests: []\n#" + "x" * (MAX_BYTES // 2))
    with pytest.raises(FlowFileError, match=r"b\.yaml:1:\d+: more than 1000 steps"):
        load(tmp_path / "a.yaml")
    with pytest.raises(FlowFileError, match=r"c\.test\.yaml:1:1: more than 1048576 bytes in the flow file"):
        load_with_tests(tmp_path / "c.yaml")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Beside flow files it is one itself if its beginning says so, and other data if not."""
    (tmp_path / "flow.yaml").write_text("flow: f\n#" + "x" * MAX_BYTES)
    (tmp_path / "flow.json").write_text('{"flow": "f", "description": "' + "x" * MAX_BYTES + '"}')
    (tmp_path / "data.json").write_text(json.dumps([{"flow": 1}] * 100_000))
    assert [path.name for path in flow_files(tmp_path)] == ["flow.json", "flow.yaml"]
    with pytest.raises(FlowFileError, match="it has more than 1048576 bytes, the limit of flow files"):
        load(tmp_path / "flow.yaml")


def test_a_hundred_mistakes_are_reported(tmp_path: Path) -> None:
    """And how many more there are, in the message, in `check`, and in its JSON."""
    text = "flow: f\n" + "".join(f"k{number}: 1\n" for number in range(250))
    lines = mistakes(text)
    assert (len(lines), lines[0][:12], lines[-1]) == (101, "a.yaml:2:1: ", "and 150 more")
    (tmp_path / "a.yaml").write_text(text)
    result = invoke("check", tmp_path / "a.yaml")
    told = result.stdout.splitlines()
    assert (result.exit_code, len(told), told[-2][-12:], told[-1][-11:]) == (1, 102, "and 150 more", " 250 errors")
    result = invoke("check", "--json", tmp_path / "a.yaml")
    (report,) = json.loads(result.stdout)
    assert (result.exit_code, len(report["diagnostics"]), report["more"]) == (1, 100, 150)


def test_no_mistake_is_long() -> None:
    """However long what it quotes is, and however many words are allowed."""
    long = "x" * 50_000
    text = f'services: {{s: {{get: "{long}"}}}}\nsteps: [{{map_async: {long}}}]\nwindow: {long}\n{long[:900]}: 1\n'
    many = named("services", 200, SERVICE) + "steps: [{map_async: s}]\n"
    assert max(map(len, [*mistakes(f"flow: f\n{text}"), *mistakes(f"flow: f\n{many}")])) < 1500
    assert "n124 and 170 more" in mistakes(f"flow: f\n{many}")[0]


SLOW = {
    "names that are nearly right": lambda: (
        named("services", 200, SERVICE).replace("  n", "  service")
        + "steps:\n"
        + "".join(f"- map_async: sercive{n}\n" for n in range(1000))
    ),
    "expressions": lambda: "steps:\n" + "".join(f"- filter: value.a{n} > {n}\n" for n in range(1000)),
    "fields": lambda: "steps:\n- set:\n" + "".join(f"    a{n}: value.a{n} + 1\n" for n in range(9000)),
    "rules": lambda: "item:\n" + "".join(f"  a{n}: {{type: integer, minimum: {n}}}\n" for n in range(3300)),
    "an enum": lambda: f"item: {{a: {{enum: [{', '.join(map(str, range(19_000)))}]}}}}\n",
    "zones": lambda: named("workers", 50, "{source: {ticks: 1s}, cron: 0 0 * * *, timezone: Europe/Berlun}"),
    "variables that do not end": lambda: f'description: "{"${A:-" * 150_000}"\n',
    "values": lambda: "tests: [" + "{}," * 300_000 + "]\n",
    "lines": lambda: "#\n" * 500_000,
    "branches": lambda: (
        "steps:\n- route:\n"
        + "".join(f"    b{n}: {{when: value.a == {n}, steps: [{{filter: value.b > {n}}}]}}\n" for n in range(999))
    ),
}


@pytest.mark.parametrize("what", SLOW)
def test_what_is_within_the_limits_is_checked_in_about_a_second(what: str) -> None:
    """Of processor time, so that a busy machine changes nothing; some took minutes."""
    make: Callable[[], str] = SLOW[what]
    text = f"flow: f\n{make()}"
    before = time.process_time()
    with suppress(FlowFileError):
        loads(text, "a.yaml", environment={})
    assert time.process_time() - before < 5


def test_variables_are_filled_in_as_before() -> None:
    """A text in which no variable ends is not followed to its end again and again."""
    assert substitute("${A:-x}$$ ${B", {}) == "x$ ${B"
    assert substitute("$$${A}$$$", {"A": "}"}) == "$}$$"
    assert variable_names("${A} ${B:-c} ${D") == ["A", "B"]
