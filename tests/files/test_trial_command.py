"""`penstock test`: what it prints, in three formats, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from files.trying import ORDERS
from invoking import invoke
from penstock import Flow
from penstock.cli.test import flow_file, run_tests
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.placeholders import PlaceholderEnvironment
from penstock.flowfile.reader import read_document
from penstock.flowtests import TESTS, FlowTest, check_tests
from penstock.services.http_service import HttpCall
from penstock.support.environment import substitute

GOOD = "[{name: all is well, given: {generate: 2}, expect: {ok: [1, 2], seconds: 150ms}}]"
BAD = "[{name: all is well, given: {generate: 1}, expect: {ok: 1}}, {name: not so well, given: [], expect: {ok: 1}}]"


@dataclass
class Loaded:
    """A file that was read: the orders, with the tests that it holds."""

    tests: tuple[FlowTest, ...]
    flow: Flow[Any] = ORDERS


def load(path: Path, *, environment: Mapping[str, str]) -> Loaded:
    """Reads a file that holds nothing but tests."""
    mistakes = Diagnostics()
    read = TESTS.read(read_document(path.read_text(), path.name), mistakes)
    tests = () if read is MISSING else check_tests(read, ORDERS, mistakes)
    mistakes.check()
    return Loaded(tests)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        Path(name).write_text(text)
        return name

    return write


def test_a_line_for_each_test_and_one_that_sums_up(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests([Path(write("good.yaml", GOOD))], load) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "good.yaml"
    assert second.startswith("  ✓ all is well (0.15 s, ")
    assert second.endswith(" ms real time)")
    assert last.startswith("1 passed in ")
    assert last.endswith(" s (0.15 s of virtual time)")


def test_what_is_not_as_expected_stands_below_its_test(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests([Path(write("bad.yaml", BAD))], load) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("  ✗ not so well (0 s, ")
    assert lines[3:6] == ["      at bad.yaml:1:62", "      ok: expected 1, got 0", "      seed 0"]
    assert lines[6].startswith("1 passed, 1 failed in ")


def test_a_file_with_mistakes_does_not_keep_others_from_being_played(write: Any, capsys: Any) -> None:
    wrong = write("wrong.yaml", "[{name: a, given: [], expect: {}}]")
    assert run_tests([Path(wrong), Path(write("good.yaml", GOOD))], load) == 2
    said = capsys.readouterr()
    assert "  ! wrong.yaml:1:31: expect: expected at least" in said.out
    assert "1 passed, 1 invalid file in " in said.out
    assert said.err == ""


def test_people_are_told_of_mistakes_also_where_programs_read_the_report(write: Any, capsys: Any) -> None:
    wrong = write("wrong.yaml", "[{name: a, given: [], expect: {}}]")
    assert run_tests([Path(wrong)], load, format="json") == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["diagnostics"] == 1
    assert said.err.startswith("penstock test: wrong.yaml:1:31: expect: expected")


def test_a_file_that_is_not_there_is_a_mistake(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests([Path("nowhere.yaml")], load) == 2
    assert "nowhere.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "none.yaml: no tests: add a list `tests:` to the file"),
        ({"only": "x"}, "none.yaml: no test whose name contains 'x'"),
    ],
)
def test_nothing_to_play_is_no_success(write: Any, capsys: Any, flags: dict[str, str], said: str) -> None:
    assert run_tests([Path(write("none.yaml", "[]"))], load, **flags) == 2
    assert capsys.readouterr().err == f"penstock test: {said}\n"


def test_files_that_flow_files_use_have_no_tests(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """They may stand among the others; alone they are nothing to play."""
    good, shared = write("good.yaml", GOOD), write("shared.yaml", "templates: {t: []}")
    assert run_tests([Path(good), Path(shared)], load) == 0
    assert "shared" not in capsys.readouterr().out
    assert run_tests([Path(shared)], load) == 2
    assert "shared.yaml: no tests: only flows have tests" in capsys.readouterr().err


def test_only_some_tests_are_played(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests([Path(write("bad.yaml", BAD))], load, only="all is") == 0
    assert "not so well" not in capsys.readouterr().out


def test_the_trace_tells_what_happened_and_when(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[{name: a, given: {generate: 3}, when: {inventory: {raises: no}}, expect: {failed: 3}}]"
    assert run_tests([Path(write("a.yaml", text))], load, only="a", trace=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "               0 s  inventory: raised StubError for 2: no" in lines
    assert "             0.1 s  dead letters: stored 1, 2, 3" in lines
    assert "             0.1 s  run ended: completed" in lines


def test_the_trace_tells_of_what_no_client_hears(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What was filtered, and the parts that were, each once."""
    flow = """
flow: f
key: id
item: {id: integer}
steps:
  - filter: value.id != 1
  - flat_map: "[{'id': 20}, {'id': 30}]"
  - filter: value.id != 20
tests:
  - name: a
    given: [{id: 1}, {id: 2}]
    expect: {filtered: 1, ok: 1}
"""
    assert run_tests([Path(write("f.yaml", flow))], trace=True) == 0
    told = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines() if "filtered" in line]
    assert told == ["filtered: 1", "filtered: 2, part 0"]


def test_another_seed_can_be_asked_for(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests([Path(write("bad.yaml", BAD))], load, seed=77) == 1
    assert "      seed 77" in capsys.readouterr().out.splitlines()


def test_json_tells_all(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests([Path(write("bad.yaml", BAD))], load, format="json", trace=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["tests"], document["failed"], document["diagnostics"]) == (2, 1, 0)
    good, bad = document["files"][0]["tests"]
    assert (good["ok"], good["seconds"], good["calls"]) == (True, 0.15, {"pricing": 1, "inventory": 1})
    assert good["summary"]["received"] == 1
    assert good["trace"][0] == {"at": 0.0, "event": "received: 1"}
    assert bad["differences"] == [{"subject": "ok", "lines": ["expected 1, got 0"]}]


def test_junit_goes_to_a_file_and_text_to_people(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = write("wrong.yaml", "[{name: a, given: [], expect: {}}]")
    assert run_tests([Path(write("bad.yaml", BAD)), Path(wrong)], load, format="junit", output="report.xml") == 2
    assert "✗ not so well" in capsys.readouterr().out
    root = ElementTree.parse("report.xml").getroot()
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "3", "1", "1")
    first, second = root
    assert (first.tag, first.get("name"), first.get("tests"), first.get("skipped")) == (
        "testsuite",
        "bad.yaml",
        "2",
        "0",
    )
    good, bad = first
    assert (good.tag, good.get("name"), good.get("classname"), good.get("line")) == (
        "testcase",
        "all is well",
        "bad.yaml",
        "1",
    )
    assert good.get("file") == "bad.yaml"
    assert float(good.get("time", "")) > 0
    (failure,) = bad
    assert (failure.tag, failure.get("message"), failure.get("type")) == ("failure", "ok: expected 1, got 0", "ok")
    assert failure.text == "ok: expected 1, got 0\nseed 0"
    (error,) = second[0]
    assert error.tag == "error"
    assert error.get("message", "").startswith("wrong.yaml:1:31: expect: expected")


def test_a_report_that_cannot_be_written_is_said(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads the text has it all the same; the exit code is none of what the tests came to."""
    assert run_tests([Path(write("bad.yaml", BAD))], load, output="no/report.xml") == 2
    said = capsys.readouterr()
    assert "✗ not so well" in said.out
    assert said.err == "penstock test: no/report.xml cannot be written: No such file or directory\n"


@pytest.mark.parametrize("kept", ["good.yaml", "good.test.yaml", "wrong.yaml", "link.json"])
def test_no_report_overwrites_a_named_flow_or_its_tests(write: Any, kept: str) -> None:
    """Under any name."""
    texts = {"good.yaml": "flow: good\n", "good.test.yaml": f"tests: {GOOD}\n", "wrong.yaml": "flow: ["}
    for name, text in texts.items():
        write(name, text)
    Path("link.json").symlink_to("good.yaml")
    result = invoke("test", "good.yaml", "wrong.yaml", "--format", "json", "--output", kept)
    assert (result.exit_code, "is the same file as" in result.stderr) == (2, True)
    assert {name: Path(name).read_text() for name in texts} == texts


def test_a_report_can_be_written_again(write: Any) -> None:
    """Over the report of an earlier run."""
    write("good.yaml", "flow: good\nitem: {n: integer}\ntests: [{name: a, given: [{n: 1}], expect: {ok: 1}}]\n")
    for _ in range(2):
        result = invoke("test", "good.yaml", "--format", "junit", "--output", "report.xml")
        assert (result.exit_code, result.stderr) == (0, "")
    assert ElementTree.parse("report.xml").getroot().get("tests") == "1"


def test_junit_holds_whatever_stands_in_names_and_values(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = '<a> & "b" \x01\x1b\ufffe'
    given = '{"note": "\x01 ]]> é \\ud800"}'
    test = {"name": name, "given": [given, "\x02"], "expect": {"ok": []}, "when": {"pricing": {"returns": 1}}}
    path = write("odd.json", json.dumps([test]))
    assert run_tests([Path(path)], load, format="junit", trace=True) == 1
    root = ElementTree.fromstring(capsys.readouterr().out.encode())
    assert root[0][0].get("name") == '<a> & "b" \ufffd\ufffd\ufffd'


def test_variables_that_are_not_set_stop_no_test() -> None:
    environment = PlaceholderEnvironment({"HOST": "here", "EMPTY": ""})
    assert substitute("${HOST}/${KEY}/${KEY:-a}/${EMPTY:-b}", environment) == "here/http://unset/a/b"
    assert dict(environment) == {"HOST": "here", "EMPTY": "http://unset"}
    assert len(environment) == 2
    for url in ("${BASE}/{id}", "https://${NAME}/{id}", "http://host:${PORT}/", "${SCHEME}://host"):
        assert HttpCall("s", url, environment=environment).url_template


def test_tests_beside_a_flow_file_belong_to_it() -> None:
    assert flow_file(Path("a/orders.test.yaml")) == Path("a/orders.yaml")
    assert flow_file(Path("orders.yaml")) == Path("orders.yaml")


def test_a_file_is_played_once_though_its_tests_are_named_too(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("good.yaml", GOOD)
    assert run_tests([Path(path), Path("good.test.yaml")], load) == 0
    assert capsys.readouterr().out.count("✓") == 1


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--format", "tap"]])
def test_wrong_usage_is_refused(flags: list[str]) -> None:
    assert invoke("test", "a.yaml", *flags).exit_code == 2
