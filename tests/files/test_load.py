"""Flow files become flows; whatever is wrong in one is said at once, each mistake at its place."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from invoking import invoke
from laws.virtual import results
from penstock import from_iterable
from penstock.backends.extras import EXTRAS
from penstock.errors import ExpressionFailed, FlowFileError
from penstock.expressions import Expression
from penstock.flowfile import load, loads, references
from penstock.flowfile.discovery import check_shared, holds_flow
from penstock.flowfile.item_types import item_type
from penstock.flowfile.steps import MAP_ASYNC
from penstock.flowtests.load import load as load_tests
from penstock.flowtests.load import loads as load_with_tests
from penstock.testing import run

BAD = """\
flow: orders x
ky: orderId
item: {orderId: {type: integr}}
window: {elements: 0, bytes: 16Mb}
services:
  pricing: {get: "${NOWHERE}/prices/{orderId}", timeout: 2 seconds}
  inventory: {call: "penstock.orders:inventry", attempts: two}
steps:
  - enrich: [pricng, inventory]
  - filtr: value.price < 5000
  - filter: vlue.price < 5000
  - filter: value.price + 1
  - map: value.a +
  - route: {big: {when: value.a > 1, steps: [{apply: pack}]}}
workers:
  B: {source: {file: in.csv}, cron: "30 4 * *", timezone: Europe/Berln}
"""

SAID = """\
bad.yaml:1:7: invalid name "orders x": use letters, digits, - and _
bad.yaml:2:1: unknown key "ky": did you mean "key"?
bad.yaml:3:24: type: unknown type "integr": did you mean "integer"?
bad.yaml:4:20: elements: expected an integer >= 1, got 0
bad.yaml:4:30: bytes: expected a size > 0 such as 16MiB, 64kB or 512B, got "16Mb"
bad.yaml:6:18: the variable NOWHERE is not set; set it, or give it a default: ${NOWHERE:-default}
bad.yaml:6:58: timeout: expected a duration > 0 such as 250ms, 2s or 1h30m, got "2 seconds": did you mean "2s"?
bad.yaml:7:21: penstock.orders has no "inventry": did you mean "inventory"?
bad.yaml:7:59: attempts: expected an integer >= 1, got "two"
bad.yaml:9:14: unknown service "pricng": did you mean "pricing"?
bad.yaml:10:5: unknown step "filtr": did you mean "filter"?
bad.yaml:11:13: invalid expression "vlue.price < 5000" (column 1): unknown name 'vlue.price'; the variable is value
bad.yaml:12:13: filter: expected a Boolean expression such as value.amount > 10, got one of type INT: "value.price + 1"
bad.yaml:13:10: invalid expression "value.a +" (column 10): it ends too early
bad.yaml:14:54: unknown template "pack"; describe it under templates:
bad.yaml:16:37: cron expression '30 4 * *': expected five fields: minute, hour, day of month, month, day of week; \
'0 6 * * MON-FRI' is six o'clock on working days
bad.yaml:16:59: unknown time zone 'Europe/Berln': did you mean 'Europe/Berlin'?
"""


def mistakes(text: str, **environment: str) -> list[str]:
    with pytest.raises(FlowFileError) as caught:
        load_with_tests(text, "bad.yaml", environment=environment)
    return str(caught.value).splitlines()


def test_all_mistakes_are_said_at_once() -> None:
    """One look at the file is enough: no mistake hides another, and each has its place and a way out."""
    assert mistakes(BAD) == SAID.splitlines()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: []", '1:1: missing "flow": expected a name of letters, digits, - and _'),
        (
            "flow: f\norder: key",
            '2:8: flow f: order: "key" needs the field that identifies an item; set "key" to its name',
        ),
        ("flow: f\nkey: id\norder: key\nitem: {no: string}", '2:6: unknown item field "id": expected no'),
        ("flow: f\nkey: id\nitem: {no: string}", '2:6: unknown item field "id": expected no'),
        ("flow: f\nitem: {n: {type: string, pattern: '('}}", "2:11: pattern: not a regular expression of RE2"),
        ("flow: f\nitem: {n: {type: array, items: integer?}}", "2:11: items: an item of a list cannot be optional"),
        ("flow: f\nitem: {n: {type: string, enum: [a], pattern: b}}", "2:11: enum and pattern exclude each other"),
        ("flow: f\nitem: {n: {type: integer, enum: [1], minimum: 1}}", "remove minimum"),
        ("flow: f\nitem: {n: {type: string, enum: [1]}}", "2:11: enum: 1 is not a value of type string"),
        ("flow: f\nitem: {n: {enum: [99999999999999999999999]}}", "2:11: these rules cannot be combined"),
        (
            "flow: f\nservices: {s: {get: 'http://h', max_in_flight: {min: 8, max: 4}}}",
            "2:48: max_in_flight: max: expected an integer >= 8 (min), got 4",
        ),
        (
            "flow: f\nservices: {s: {get: 'http://h', breaker: {failures: 5, failure_rate: 80%}}}",
            "2:42: breaker: failures and failure_rate exclude each other: remove one",
        ),
        (
            "flow: f\nservices: {s: {get: 'http://h', breaker: {errors: ['builtins:OSError']}}}",
            "breaker: errors: only for services with call; s has get: remove it",
        ),
        (
            "flow: f\nservices: {s: {call: 'math:sqrt', breaker: {errors: ['math:sqrt']}}}",
            "2:44: breaker: errors: expected exception classes, got <built-in function sqrt>",
        ),
        (
            "flow: f\nservices: {s: {post: 'http://h', batch: true}}\nsteps: [{map_async: s}]",
            "3:10: service s takes a list of values: use batch",
        ),
        (
            "flow: f\nservices: {s: {get: 'http://h/{id}'}}\nsteps: [{batch: {service: s, size: 2, max_wait: 1s}}]",
            "3:10: service s takes one value: use map_async or enrich",
        ),
        (
            "flow: f\nitem: [id]",
            "2:7: item: expected a reference such as module:name or a mapping, got a list of 1; "
            "write fields with their types, such as {id: string}",
        ),
        (
            "flow: f\nservices: {s: {call: operator:neg}}\nsteps: [{enrich: s}]",
            '3:18: enrich: expected a list of at least 1 or a mapping, got "s"; '
            "put the names of services in brackets, such as [stock]",
        ),
        (
            "flow: f\nworkers:\n  w: {source: {file: in.csv}, cron: * * * * *}",
            "a value cannot start with * or &; put a string that starts with * or & in quotes",
        ),
        (
            "flow: f\nsteps:\n  - filter: !value.ok",
            "3:13: tag !value.ok is not allowed; remove it, or put a string that starts with ! in quotes",
        ),
        (
            "flow: f\nsteps:\n  - filter: !value['ok']",
            "3:19: a tag is not allowed; put a string that starts with ! in quotes",
        ),
        (
            "flow: f\nsteps:\n  - filter: *ok",
            '3:13: unknown anchor "ok"; put a string that starts with * in quotes',
        ),
        ("flow: f\nitem: nowhere:Item", '2:7: no module "nowhere"; install it, or put it beside'),
        (
            "flow: f\nsteps: [{tap: penstock.orders:PRICING_SECONDS}]",
            "2:15: penstock.orders:PRICING_SECONDS:",
        ),
        ("flow: f\nsteps: [{filter: 'true', merge: 'operator:add'}]", "2:33: merge: only for the step enrich"),
        ("flow: f\nservices: {s: {call: operator:add, headers: {}}}", "2:22: headers: only for services with get"),
        ("flow: f\nservices: {s: {get: 'http://h', blocking: true}}", "2:21: blocking: only for services with call"),
        ("flow: f\nservices: {s: {get: 'ftp://h'}}", "2:21: expected a URL like http://host/path/{field}"),
        (
            "flow: f\nservices: {s: {get: 'http://h/{id}', batch: true}}",
            "2:21: s: the URL and headers of a batch request cannot contain fields",
        ),
        ("flow: f\nworkers: {A: {source: {generate: 3}}}", "2:14: generate: the flow has no samples"),
        (
            "flow: f\nworkers: {A: {source: {stdin: true}, every: 1s, cron: '* * * * *'}}",
            '2:49: "every" and "cron" exclude',
        ),
        (
            "flow: f\nworkers: {A: {source: {call: 'asyncio:get_running_loop'}}}",
            "2:14: the function for the source failed: RuntimeError: no running event loop",
        ),
        ("flow: f\nworkers: {A: {source: {file: a.json}}}", "2:14: a.json: a JSON document cannot be streamed"),
        ("flow: f\ndead_letters: postgres://x", "2:15: unknown dead-letter store 'postgres://x'"),
        ("flow: f\ntemplates: {t: [{apply: t}]}\nsteps: [{apply: t}]", 'template "t" applies itself'),
        ("", "1:1: the file is empty; `penstock new NAME` creates one"),
        ("# nothing yet\n", "1:1: the file is empty; `penstock new NAME` creates one"),
        (
            "flow: f\ntemplates: {t: [{apply: u}], u: [{apply: t}]}\nsteps: [{apply: t}, {apply: u}]",
            "2:35: templates apply each other in a cycle: t → u → t",
        ),
        ("flow: f\ntemplates: {t: [{apply: t}]}", '2:18: template "t" applies itself'),
        (
            "flow: f\ntemplates: {a: [], t: [{route: {r: {steps: [{apply: u}]}}}], u: [{apply: a}, {apply: t}]}",
            "2:79: templates apply each other in a cycle: t → u → t",
        ),
        (
            "flow: f\nservices: {s: {call: operator:neg, get: 'http://h'}}",
            '2:36: "call" and "get" exclude each other: remove one',
        ),
        ("flow: f\nsteps: [{tap: operator:neg, map: operator:neg}]", '"tap" and "map" are two steps: write them as'),
        ("flow: f\nservices: {s: {get: 'http://[h/{id}'}}", "expected the name or the IP address of a host"),
        (
            "flow: f\nsteps: [{route: {a: {final: true}, b: {when: 'true'}}}]",
            "2:10: route: branch 'a' takes all values",
        ),
        ("flow: f\ninclude: [nowhere.yaml]", "2:11: cannot read nowhere.yaml: No such file or directory"),
        (
            "flow: f\ninclude: [nowhere.yaml, a.yaml, ./a.yaml]",
            '2:33: "./a.yaml" is included twice; remove one',
        ),
        (
            "flow: f\nitem: {id: {type: integer, minimum: 1e30}}",
            "2:12: minimum: expected a number from -9223372036854775808 to 9223372036854775807, got 1e+30",
        ),
        (
            f"flow: f\nsteps: [{{map: '{'(' * 400}1{')' * 400}'}}]",
            "it is nested too deeply; compute parts of it in earlier steps",
        ),
        (f"flow: f\nsteps: [{{map: 'value{'.a' * 400}'}}]", "it is nested too deeply"),
        ("flow: f\nitem: math:sqrt", "2:7: item: expected a type that JSON can be decoded to"),
        ("flow: f\nitem: math:pi", "2:7: item: expected a type that JSON can be decoded to"),
        ("flow: f\nitem: sys:path", "2:7: item: expected a type that JSON can be decoded to"),
        (
            "flow: f\nservices: {s: {get: 'http://h'}, t: {get: 'http://i', name: s}}\nsteps: [{enrich: [s, t]}]",
            '2:61: "t" and "s" have the same name "s"; give them different names',
        ),
        (
            "flow: f\nservices: {t: {get: 'http://i', name: s}, s: {get: 'http://h'}}\nsteps: [{enrich: [s, t]}]",
            '2:52: "s" and "t" have the same name "s"; give them different names',
        ),
        *(
            (
                f"flow: f\ndead_letters: {{store: memory, redact: [{path!r}]}}",
                '2:40: invalid path "' + path + '": use field names with dots between them, such as card.number',
            )
            for path in ("", "a..b", "card.*", ".", "a.", "items[0].x", " a")
        ),
        ("flow: f\ndead_letters: {store: postgres://x}", "2:23: unknown dead-letter store 'postgres://x'"),
        (
            "flow: f\ndead_letters: {store: nothing, copy: [memory, 'kafka:x']}",
            "2:47: unknown dead-letter store 'kafka:x'",
        ),
        ("flow: f\ndead_letters: {store: 'sqlite:///a.db', copy: [memory, x]}", "2:56: unknown dead-letter store 'x'"),
        (
            "flow: f\ndead_letters: {store: 'sqlite:///a.db', copy: ['sqlite:///a.db']}",
            "2:48: copy: sqlite:///a.db is named twice; remove one",
        ),
        (
            "flow: f\ndead_letters: {store: 'kafka://u:p@h/t', copy: ['sqlite:///a.db', memory]}",
            "2:48: copy: the store kafka://h/t is a log, which does not record which letters were copied;",
        ),
        (
            "flow: f\ndead_letters: {store: 's3://bucket/letters', keep: {resolved: 7d}}",
            "2:52: keep: s3://bucket/letters is a log, from which no single letters can be deleted; set the retention",
        ),
        (
            "flow: f\nredrive: recovered\ndead_letters: 'nats://h/letters'",
            "2:10: redrive: nats://h/letters is a log, in which the letters of one outage cannot be selected",
        ),
        (
            "flow: f\ndead_letters: {store: memory, keep: {}}",
            "2:37: keep: expected a limit, such as the seconds that resolved letters are kept",
        ),
        (
            "flow: f\ndead_letters: {store: memory, keep: {resolved: 0, claimed: 1d}}",
            "2:48: resolved: expected a duration > 0 such as",
        ),
        ("flow: f\ndead_letters: {store: memory, keep: {claimed: 1d}}", '2:38: unknown key "claimed"'),
        ("flow: f\ndead_letters: {store: memory, keep: {max: 0}}", "2:43: max: expected an integer >= 1, got 0"),
        ("flow: f\nredrive: always", '2:10: redrive: unknown value "always": expected recovered'),
        ("flow: f\nredrive: {rate: 5/s}", '2:10: missing "when": expected recovered'),
        ("flow: f\ntests: [{name: t, given: [1]}]", '2:9: missing "expect": expected a mapping'),
    ],
)
def test_a_mistake_says_where_and_what_to_do(text: str, says: str) -> None:
    """Each rule of the file, broken once."""
    found = mistakes(text)
    assert any(f"bad.yaml:{says}" in line or says in line for line in found), found


def test_a_missing_extra_is_reported_where_its_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; a copy needs its extra too."""
    monkeypatch.setitem(EXTRAS, "kafka", "no_such_module")  # type: ignore[arg-type] - the mapping is read only elsewhere
    text = "flow: f\ndead_letters: {store: memory, copy: ['kafka://h/t']}"
    assert mistakes(text) == [
        "bad.yaml:2:38: dead-letter store kafka://h/t: its packages are not installed; install them: "
        'pip install "penstock[kafka]"'
    ]


@pytest.mark.parametrize(
    ("rule", "taken", "refused"),
    [("minimum: 1.5", 2, 1), ("maximum: 1.5", 1, 2), ("above: -0.5", 0, -1), ("below: 1.5", 1, 2), ("above: 1", 2, 1)],
)
def test_a_bound_between_two_whole_numbers_is_kept_to(rule: str, taken: int, refused: int) -> None:
    """It says what it says, also of whole numbers."""
    flow = loads(f"flow: f\nitem: {{n: {{type: integer, {rule}}}}}", "f.yaml").flow
    told = results(flow, from_iterable([{"n": taken}, {"n": refused}]))
    assert [result.ok for result in told] == [True, False]


def test_a_value_that_may_be_missing_is_no_result() -> None:
    """It is said what to write instead."""
    flow = loads("flow: f\nsteps: [{set: {x: 'value.?note'}}]", "f.yaml").flow
    (told,) = results(flow, from_iterable([{"note": 1}]))
    assert ".orValue(" in told.failure.message


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("value.to.city", "has(value.to.city) ? value.to.city : 0"),
        (
            "{'EUR': 1.0}[value.currency]",
            "handle a key that may be missing: {'a': 1}[?value.x].orValue(0)",
        ),
        ("{1: 'one'}[value.n]", "handle a key that may be missing"),
    ],
)
def test_a_field_that_is_missing_and_a_key_that_is_looked_up_have_each_a_way_out(expression: str, hint: str) -> None:
    """To ask whether the value has a field leads nowhere when it is a table that lacks a key."""
    with pytest.raises(ExpressionFailed) as failed:
        Expression(expression)({"to": {}, "currency": "XYZ", "n": 2})
    assert hint in str(failed.value)
    assert ("has(" in str(failed.value)) == ("has(" in hint)


def test_flows_with_the_same_rules_for_items_share_a_type() -> None:
    """The same rules give the same type as long as it is in use."""
    first = item_type({"n": {"type": "integer", "minimum": -1}})
    assert item_type({"n": {"type": "integer", "minimum": -1}}) is first


def test_types_of_items_are_released_with_their_flows() -> None:
    """A service whose flows are reloaded with new rules again and again does not grow: few types outlive their flow."""
    types = []
    for number in range(60):
        flow = loads(
            f"flow: f\nitem: {{n: {{type: integer, minimum: {number}}}}}\nsteps: [map: value.n]", "f.yaml"
        ).flow
        types.append(weakref.ref(flow.item))
    del flow
    gc.collect()
    assert sum(one() is not None for one in types) <= 16


def test_only_an_object_has_fields_to_be_set() -> None:
    """Anything else fails alone, with a sentence."""
    flow = loads("flow: f\nsteps: [{set: {x: '1'}}]", "f.yaml").flow
    told = results(flow, from_iterable([7, {"y": 2}]))
    bad, good = sorted(told, key=lambda result: result.seq)
    assert good.ok
    assert bad.failure.message == "set: expected an object, got int"


def test_an_answer_may_be_called_name() -> None:
    """What the step is called stands beside it."""
    text = "flow: f\nservices: {s: {call: 'builtins:len'}}\nsteps: [{enrich: {name: s, x: s}, name: both}]"
    flow = loads(text, "f.yaml").flow
    (told,) = results(flow, from_iterable([{"a": 1}]))
    assert told.value == {"a": 1, "name": 1, "x": 1}
    assert flow.timed_steps == ("decode", "both", "encode")


def test_a_wrong_key_hides_nothing() -> None:
    """The rest is built without the key."""
    assert mistakes("flow: f\nitem: {orderId: integer}\nkey: orderid\nworkers: {A: {source: {generate: 3}}}") == [
        'bad.yaml:3:6: unknown item field "orderid": did you mean "orderId"?',
        "bad.yaml:4:14: generate: the flow has no samples; describe them under samples:",
    ]


HIDING = """\
flow: f x
item: {id: integer}
key: nokey
steps: [{map: value.a +}]
workers:
  A: {source: {file: x.txt}}
  B: {source: {generate: 3}}
  C: {source: {fil: a.csv}}
samples: {id: seq +}
dead_letters: foo
"""


def test_a_part_that_cannot_be_read_hides_nothing_in_the_others() -> None:
    """Keys, stores and sources are checked beside it; what refers to a part that is wrong is no further mistake."""
    found = mistakes(HIDING)
    assert [line.split(":")[1] for line in found] == ["1", "3", "4", "6", "8", "9", "10"]
    assert 'unknown item field "nokey": expected id' in found[1]
    assert "x.txt: its name indicates no format" in found[3]
    assert "unknown dead-letter store 'foo'" in found[6]


@pytest.mark.parametrize("source", ["{generate: 3}", "{fil: a.csv}"])
def test_a_wrong_source_does_not_hide_a_wrong_schedule(source: str) -> None:
    """Whatever is wrong with the source, one look at the worker is enough."""
    found = "\n".join(
        mistakes(
            f"flow: f\nworkers:\n  A: {{source: {source}, every: 1s, cron: '* * * * *'}}\n"
            f"  B: {{source: {source}, timezone: UTC}}"
        )
    )
    assert '"every" and "cron" exclude each other' in found
    assert "timezone: only with cron" in found


def test_a_step_that_is_left_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a step whose syntax does not say which of its nodes name services."""
    forgetful = {**references.SYNTAX, "map_async": replace(MAP_ASYNC, services=lambda _: ())}
    monkeypatch.setattr(references, "SYNTAX", forgetful)
    assert mistakes("flow: f\nsteps:\n- {map_async: s}\n") == ['bad.yaml:3:4: unknown service "s"']


@pytest.mark.parametrize(
    "step", ["map_async: S", "batch: {service: S, size: 2, max_wait: 1s}", "enrich: {a: S}", "enrich: [S]"]
)
def test_each_step_with_services_says_where_it_names_them(step: str) -> None:
    """So that a misspelt service is reported there."""
    (found,) = mistakes(f"flow: f\nservices: {{s: {{call: operator:neg}}}}\nsteps:\n- {step}\n")
    assert found.startswith(f'bad.yaml:4:{step.index("S") + 3}: unknown service "S"')


def test_tests_are_looked_at_beside_other_mistakes(tmp_path: Path) -> None:
    """What is wrong in the flow hides nothing in its tests, and a step that is not there for a mistake is no other."""
    wrong = "[{name: t, given: {generate: 1}, expect: {failed: [{step: price, ky: 1}]}}]"
    head = "flow: f\nsteps:\n- {map_async: s, name: price}\n"
    no_service = 'bad.yaml:3:15: unknown service "s"; describe it under services:'
    no_samples = ":26: generate: flow f has no samples; list the values"
    no_field = 'unknown key "ky": did you mean "key"?'
    assert mistakes(f"{head}tests: {wrong}") == [
        no_service,
        f"bad.yaml:4{no_samples}",
        f"bad.yaml:4:73: {no_field}",
    ]

    file, beside = tmp_path / "f.yaml", tmp_path / "f.test.yaml"
    file.write_text(head)
    beside.write_text(f"tests: {wrong}")
    with pytest.raises(FlowFileError) as caught:
        load_tests(file)
    assert [mistake.location.file for mistake in caught.value.diagnostics] == [str(beside), str(beside), str(file)]

    beside.write_text("tests: [")
    with pytest.raises(FlowFileError) as caught:
        load_tests(file)
    assert [mistake.location.file for mistake in caught.value.diagnostics] == [str(beside), str(file)]


def test_files_are_told_apart(tmp_path: Path) -> None:
    """Services and templates of a shared file are used by name; its mistakes carry its own name."""
    shared = tmp_path / "shared.yaml"
    shared.write_text("services:\n  s: {call: operator:neg}\ntemplates:\n  t: [{map_async: s}]\n")
    file = tmp_path / "f.yaml"
    file.write_text("flow: f\ninclude: [shared.yaml]\nsteps: [{apply: t}, {map: value * 2}]\n")
    loaded = load(file)

    async def results() -> list[Any]:
        return [result.value async for result in loaded.flow.stream(from_iterable([1, 2]))]

    assert run(results()) == [-2, -4]
    assert loaded.files == (file, shared)

    shared.write_text("services:\n  s: {call: operator:nog}\n")
    with pytest.raises(FlowFileError) as caught:
        load(file)
    assert [mistake.location.file for mistake in caught.value.diagnostics] == [str(file), str(shared)]


def test_a_flow_file_is_not_used_by_another(tmp_path: Path) -> None:
    """That is one mistake, whatever else is in the file that is used, and nothing that it has is missed."""
    other, file = tmp_path / "other.yaml", tmp_path / "f.yaml"
    other.write_text("flow: g\nservices: {s: {get: '${NOWHERE}/'}}\nsteps: [{map_async: r}]\n")
    file.write_text("flow: f\ninclude: [other.yaml]\nsteps: [{map_async: s}]\n")
    with pytest.raises(FlowFileError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}:2:11: a flow file cannot be included in another; move what is shared into a file without flow:"
    )


def test_modules_beside_a_flow_file_are_found(tmp_path: Path) -> None:
    """A step in Python needs no package: a module beside the file will do."""
    (tmp_path / "beside_a_flow.py").write_text("def triple(value):\n    return 3 * value\n")
    (tmp_path / "f.yaml").write_text("flow: f\nsteps: [{map: 'beside_a_flow:triple'}]\n")
    before = list(sys.path)

    async def first() -> Any:
        return [result.value async for result in load(tmp_path / "f.yaml").flow.stream(from_iterable([2]))]

    assert run(first()) == [6]
    assert sys.path == before


def test_what_the_file_says_itself_is_known() -> None:
    """So that settings are defaults only for what it does not say."""
    assert loads("flow: f\nwindow: 3\n", "f.yaml").declared == {"flow", "window"}


def test_check_tells_the_memory_bound(tmp_path: Path) -> None:
    """`penstock check` says how much one run can hold, step by step and in all; mistakes give exit code 1."""
    good = tmp_path / "good.yaml"
    good.write_text(
        "flow: f\nwindow: 10\nservices: {s: {get: 'http://h', limit: 1KiB}}\n"
        "steps:\n- map_async: s\n- flat_map: {items: value.lines, max_parts: 5}\n"
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text("flow: 1\n")

    valid, both = invoke("check", good), invoke("check", good, bad)
    told = valid.stdout

    assert (valid.exit_code, both.exit_code) == (0, 1)
    assert "one run holds at most 25 elements and 16.01 MiB of JSON" in told
    assert "10 KiB  a response for each of 10" in told
    assert f"{bad}: 1 error\n" in both.stdout


def test_check_looks_at_the_flow_files_of_a_folder(tmp_path: Path) -> None:
    """As `penstock serve` finds them; a folder without any is no folder to check."""
    (tmp_path / "a.yaml").write_text("flow: a\ninclude: [shared.yaml]\n")
    (tmp_path / "b.json").write_text('{"flow": "b", "ky": 1}')
    (tmp_path / "shared.yaml").write_text("services: {s: {get: 'http://h/'}}\n")
    (tmp_path / "a.test.yaml").write_text("tests: []\n")
    (tmp_path / "none").mkdir()

    result = invoke("check", tmp_path, tmp_path / "a.yaml", "--quiet")
    told = result.stdout.splitlines()
    assert result.exit_code == 1
    assert [line.partition(": ")[0] for line in told] == [f"{tmp_path}/b.json:1:15", f"{tmp_path}/b.json"]

    assert invoke("check", tmp_path / "none").exit_code == 2


def test_a_circle_is_told_once(tmp_path: Path) -> None:
    """Though its templates are met both in the steps and by themselves."""
    text = "flow: f\ntemplates: {t: [{apply: u}], u: [{apply: v}], v: [{apply: t}]}\nsteps: [{apply: v}, {apply: t}]"
    assert len(mistakes(text)) == 1
    shared = tmp_path / "shared.yaml"
    shared.write_text("templates: {t: [{apply: t}]}")
    with pytest.raises(FlowFileError, match='template "t" applies itself'):
        check_shared(shared)


@pytest.mark.parametrize("name", ["pipe.yaml", "user.yaml", "tried.yaml"])
def test_a_pipe_is_no_flow_file(tmp_path: Path, name: str) -> None:
    """Whoever opens one waits for somebody to write to it, which may be never: it is refused by its name."""
    for pipe in ("pipe.yaml", "tried.test.yaml"):
        os.mkfifo(tmp_path / pipe)
    (tmp_path / "user.yaml").write_text("flow: user\ninclude: [pipe.yaml]")
    (tmp_path / "tried.yaml").write_text("flow: tried\n")
    assert holds_flow(tmp_path / "pipe.yaml")
    result = invoke("check", tmp_path / name)
    assert result.exit_code == 1
    assert "it is not a regular file" in result.stdout


def test_a_text_that_nothing_can_hold_ends_in_a_sentence(tmp_path: Path) -> None:
    """JSON has ways to write down half a character, and one that no path can have."""
    for number, text in enumerate(
        (
            r'{"flow":"u","include":["\u0000"],"steps":[]}',
            r'{"flow":"u","include":["\ud800"]}',
            r'{"flow":"u","steps":[{"map":"\ud800"}]}',
            r'{"flow":"u","steps":[{"mapp\ud800":"value"}]}',
            r'{"flow":"u","steps":[{"mapp\ud800":"value","mapp\ud800":"value"}]}',
        )
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        result = invoke("check", path)
        assert result.exit_code == 1
        assert " is not allowed in flow files; remove it\n" in result.stdout


def test_bounds_of_whole_numbers_may_have_64_bits() -> None:
    """As those have that are checked."""
    rule = "{type: integer, minimum: -9223372036854775808, maximum: 9223372036854775807}"
    assert loads(f"flow: f\nitem: {{id: {rule}}}", "f.yaml").flow.item is not None


def test_check_refuses_what_could_not_be_served(tmp_path: Path) -> None:
    """Names whose paths are the service's own, and two flows with one name or one path."""
    for name, text in {
        "a.yaml": "flow: a\n",
        "b.yaml": "flow: a\n",
        "c.yaml": "flow: c\nserve: {name: a}\n",
        "d.yaml": "flow: health\n",
        "e.yaml": "flow: e\nserve: {name: dead-letters}\n",
        "f.yaml": "flow: flows\nserve: false\n",
        "g.yaml": "flow: g\nserve: false\n",
    }.items():
        (tmp_path / name).write_text(text)
    result = invoke("check", tmp_path, os.path.relpath(tmp_path / "a.yaml"), "--quiet")
    told = [line.removeprefix(f"{tmp_path}/") for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [line for line in told if not line.endswith("1 error")] == [
        f"b.yaml: flow 'a' is already defined in {tmp_path / 'a.yaml'}; use another name",
        "c.yaml: the path 'a' is already used by flow 'a'; use another name",
        "d.yaml: the path 'health' is reserved; use another name",
        "e.yaml: the path 'dead-letters' is reserved; use another name",
    ]


def test_services_of_one_name_may_be_there_as_long_as_one_is_called() -> None:
    """A file that is used may have another for other flows."""
    loads("flow: f\nservices: {s: {get: 'http://h'}, t: {get: 'http://i', name: s}}\nsteps: [enrich: [s]]", "f.yaml")


def test_check_knows_files_that_flow_files_use(tmp_path: Path) -> None:
    """So that it can be given all files of a folder; a flow that lacks its name is no such file."""
    shared, wrong, flow = (tmp_path / name for name in ("shared.yaml", "wrong.yaml", "flow.yaml"))
    shared.write_text("services: {s: {get: 'http://h/'}}\ntemplates: {t: [{map_async: s}]}\n")
    wrong.write_text("services: {s: {get: 'ftp://h/'}}\ntemplates: {t: [{map_async: r}]}\n")
    flow.write_text("services: {s: {get: 'http://h/'}}\nsteps: [{map_async: s}]\n")

    result = invoke("check", shared)
    assert (result.exit_code, result.stdout) == (0, f"{shared}: valid, for use by flow files (1 service, 1 template)\n")
    result = invoke("check", wrong, flow)
    told = result.stdout
    assert result.exit_code == 1
    assert f"{wrong}:1:21: expected a URL" in told
    assert f'{wrong}:2:29: unknown service "r"' in told
    assert f'{flow}:1:1: missing "flow"' in told


@pytest.mark.parametrize("steps", ["{filter: value.a}", "{route: {yes: {when: value.a, final: true}}}"])
def test_a_condition_has_to_give_true_or_false(steps: str) -> None:
    """The text "false" is not true, and 0 is not false: neither passes quietly for something else."""
    flow = loads(f"flow: f\nsteps: [{steps}]\n", "f.yaml").flow
    values = [{"a": True}, {"a": "false"}, {"a": 0}, {"a": False}]

    async def outcomes() -> list[Any]:
        return [
            (result.seq, None if result.ok else result.failure.type)
            async for result in flow.stream(from_iterable(values))
        ]

    assert [one for one in sorted(run(outcomes())) if one[1]] == [(1, "ExpressionFailed"), (2, "ExpressionFailed")]


def test_check_reports_a_variable_with_which_serve_would_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token that ends with a line break every client would get 401; its value is not shown."""
    (tmp_path / "f.yaml").write_text("flow: f\n")
    monkeypatch.setenv("PENSTOCK_TOKEN", "s3cret\n")
    result = invoke("check", tmp_path / "f.yaml")
    error = result.stderr
    assert result.exit_code == 1
    assert error.startswith("penstock check: PENSTOCK_TOKEN contains the control character U+000A")
    assert "s3cret" not in error


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("about: x", "description"),
        ("use: []", "include"),
        ("services: {s: {get: 'http://h', answer: response}}", "response"),
        ("services: {s: {post: 'http://h', many: true}}", "batch"),
        ("steps: [{flat_map: {each: value.a}}]", "items"),
        ("steps: [{route: {a: {end: true}}}]", "final"),
        ("steps: [{to: nowhere}]", "discard"),
        ("steps: [{batch: {service: s, size: 2, within: 1s}}]", "max_wait"),
        ("workers: {A: {source: {directory: in, every: 1s}}}", "poll_interval"),
        ("workers: {A: {source: {directory: in, done: old}}}", "processed_dir"),
        ("workers: {A: {source: {stdin: true}, cron: '* * * * *', zone: UTC}}", "timezone"),
        ("tests: [{name: t, given: [], pace: 1s, expect: {ok: 0}}]", "client_delay"),
        ("tests: [{name: t, given: [], expect: {within: 1s}}]", "max_duration"),
        ("tests: [{name: t, given: [], expect: {at_once: {}}}]", "peak_calls"),
        ("tests: [{name: t, given: [], expect: {in_flight: {least: 1}}}]", "min"),
        ("tests: [{name: t, given: [], events: [{client: leaves, at: 1s}], expect: {ok: 0}}]", "disconnects"),
    ],
)
def test_a_former_key_leads_to_its_new_name(former: str, new: str) -> None:
    """The message suggests the name that took its place, however different it is."""
    assert any(said.endswith(f'did you mean "{new}"?') for said in mistakes(f"flow: f\n{former}\n"))
