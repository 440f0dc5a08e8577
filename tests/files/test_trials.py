"""Tests of flows in virtual time: each thing that a test may say, shown once."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files.trying import DELIVERED, ORDERS, Folder, cases, found, verdict
from laws.building import flow_of
from laws.doubles import Spy
from laws.plans import plans
from penstock import Backoff, Flow, Service
from penstock.core.element import Outcome
from penstock.errors import FlowDefinitionError, FlowFileError, RunError
from penstock.flow.flow import Otherwise, When
from penstock.flowfile.models import Window
from penstock.flowtests import FlowTest, FlowTestRun, run_test, verify
from penstock.flowtests.models import Expectation, StoreOutage, StubError, StubRule
from penstock.flowtests.tracing import outcome_of

PRICES: Flow[Any] = Flow("prices", key="id").enrich(price=Service.http("price", "http://127.0.0.1:1/{id}", attempts=3))


async def echo(value: Any) -> Any:
    return value


def test_values_come_in_and_results_are_compared_by_key() -> None:
    assert found("{given: [{orderId: 1}, {orderId: 2}], expect: {ok: [2, 1]}}") == []


def test_of_a_record_only_the_fields_that_are_named_count() -> None:
    assert found("{given: [{orderId: 1, note: x}], expect: {ok: [{pricing: {price: 1001}}]}}") == []


def test_a_text_is_a_raw_line() -> None:
    expected = "{failed: [{key: null, step: decode, type: MalformedJson, input: '{oops'}], dead_letters: 1}"
    assert found(f"{{given: ['{{oops'], expect: {expected}}}") == []


def test_samples_of_the_flow_can_come_in() -> None:
    assert found("{given: {generate: 4}, expect: {received: 4, ok: [1, 2, 4], failed: [3]}}") == []


def test_without_a_rule_the_real_function_answers_in_virtual_time() -> None:
    assert found("{given: [{orderId: 3}], expect: {failed: [{attempts: 2}], seconds: 150ms}}") == [
        "seconds: expected 0.15 s, got 0.3 s"
    ]


def test_a_deadline_of_the_flow_holds_in_virtual_time() -> None:
    """Against slow fakes, and the queue behind them."""
    flow = ORDERS.services({"pricing": Service("pricing", echo, max_in_flight=1)}).deadline(2)
    text = """
        given: [{orderId: 1}, {orderId: 2}, {orderId: 3}]
        when: {pricing: {delay: 1.5s, returns: {price: 1}}, inventory: {returns: {inStock: true}}}
        expect:
          ok: [1]
          failed: [{key: 2, step: pricing, type: DeadlineExceeded, attempts: 1}, {key: 3, attempts: 0}]
          dead_letters: 2
          calls: {pricing: 2}
          seconds: 2s
    """
    assert found(text, flow=flow) == []


def test_a_rule_answers_in_place_of_the_service() -> None:
    text = """
        given: [{orderId: 1}, {orderId: 3}]
        when:
          inventory: {orderId: 3, returns: {inStock: false}}
        expect: {ok: [{orderId: 1, inventory: {inStock: true}}, {orderId: 3, inventory: {inStock: false}}]}
        """
    assert found(text) == []


def test_an_answer_can_be_computed() -> None:
    text = """
        given: {generate: 2}
        when:
          pricing: {expression: {price: value.orderId * 7}}
          inventory: {expression: value.orderId + 1}
        expect: {ok: [{pricing: {price: 7}, inventory: 2}, {pricing: {price: 14}, inventory: 3}], seconds: 0}
        """
    assert found(text) == []


def test_an_answer_of_one_element_is_not_that_of_another() -> None:
    flow = Flow[Any]("f").enrich(a=echo).tap(lambda value: value["a"].append(1))
    assert found("{given: [{}, {}], when: {a: {returns: []}}, expect: {ok: [{a: [1]}, {a: [1]}]}}", flow) == []


def test_a_rule_raises_with_a_type_and_attempts_follow() -> None:
    text = """
        given: [{orderId: 1}]
        when:
          inventory: {raises: {type: Gone, message: no such shelf, retryable: false}}
        expect:
          failed: [{key: 1, step: inventory, type: Gone, message: no such shelf, attempts: 1}]
          dead_letters: [{key: 1, partial_results: {pricing: {price: 1001}}}]
        """
    assert found(text) == []


def test_a_rule_raises_as_pythons_own_errors_do() -> None:
    service = Service(
        "s", echo, attempts=3, backoff=Backoff(first=0), retry_on=lambda e: isinstance(e, ConnectionError)
    )
    text = "{given: [1], when: {s: {raises: {type: ConnectionResetError}}}, expect: {failed: [{attempts: 3}]}}"
    assert found(text, Flow[Any]("f").map_async(service)) == []


def test_a_rule_answers_with_a_status() -> None:
    text = """
        given: [{id: 1}, {id: 2}]
        when:
          price:
            - {id: 1, attempt: 1, raises: {status: 503, retry_after: 7s}}
            - {id: 2, raises: {status: 404, message: no such item}}
            - {returns: 5}
        expect:
          ok: [{id: 1, price: 5}]
          failed: [{key: 2, type: ServiceErrorResponse, message: price responded 404 no such item, attempts: 1}]
          seconds: 7s
        """
    assert found(text, PRICES) == []


def test_a_call_over_http_without_a_rule_says_what_to_script() -> None:
    assert found("{given: [{id: 1}, {id: 2}], when: {price: {id: 2, returns: 5}}, expect: {received: 2}}", PRICES) == [
        "run: price is an HTTP service and no rule matches its call for 1; add a rule: when: {price: {returns: …}}"
    ]


def test_a_service_that_hangs_times_out() -> None:
    expected = "{failed: [{type: CallTimeout}], seconds: 20s}"
    assert found(f"{{given: [{{orderId: 1}}], when: {{pricing: {{hangs: true}}}}, expect: {expected}}}") == []


def test_latency_alone_comes_before_the_real_answer() -> None:
    text = (
        "{given: [{orderId: 1}], when: {pricing: {delay: 2s}}, expect: {ok: [{pricing: {price: 1001}}], seconds: 2.1}}"
    )
    assert found(text) == []


def test_calls_are_counted_among_those_that_fit_otherwise() -> None:
    text = """
        given: [{orderId: 1}, {orderId: 2}, {orderId: 4}]
        when:
          inventory:
            - {orderId: 2, call: [1, 2], raises: twice}
            - {call: 1, raises: once}
        expect: {ok: [1, 4], failed: [{key: 2, message: twice}], calls: {inventory: 5, pricing: 3}}
        """
    assert found(text) == []


def test_attempts_are_counted_for_each_value() -> None:
    text = """
        given: {generate: 2}
        when: {inventory: {attempt: 1, raises: flaky}}
        expect: {ok: [1, 2], calls: {inventory: 4}}
        """
    assert found(text) == []


def test_an_expression_and_a_path_choose_values() -> None:
    text = """
        given: [{orderId: 1, to: {country: CH}}, {orderId: 2, to: {country: DE}}, {orderId: 5}]
        when:
          inventory:
            - {to.country: DE, raises: far}
            - {if: value.orderId > 4, raises: many}
        expect: {ok: [1], failed: [{key: 2, message: far}, {key: 5, message: many}]}
        """
    assert found(text) == []


def test_an_outage_lasts_from_a_time_to_a_time() -> None:
    text = """
        given: [1, 2, 3, 4, 5]
        every: 1s
        when: {s: {from: 1s, to: 3s, raises: out of order}}
        expect: {ok: [1, 4, 5], failed: [2, 3]}
        """
    assert found(text, Flow[Any]("f").map_async(Service("s", echo))) == []


def test_a_service_of_a_batch_is_scripted_value_by_value_or_call_by_call() -> None:
    service = Service.http_batch("many", "http://127.0.0.1:1", attempts=2, backoff=Backoff(first=0))
    flow = Flow[Any]("f", key="id").batch(service, size=3, max_wait=1)
    text = """
        given: [{id: 1}, {id: 2}, {id: 3}]
        when:
          many:
            - {call: 1, raises: the first call as a whole}
            - {id: 2, raises: not this one}
            - {expression: "{'id': value.id * 10}"}
        expect: {ok: [{id: 10}, {id: 30}], failed: [{key: 2, message: not this one}], calls: {many: 2}}
        """
    assert found(text, flow) == []


def test_the_real_function_of_a_batch_is_asked_about_what_no_rule_is_for() -> None:
    flow = Flow[Any]("f").batch(echo, size=3, max_wait=1, name="echo")
    text = """
        given: [{id: 1}, {id: 2}, {id: 3}]
        when: {echo: {id: 2, returns: two}}
        expect: {order: [{id: 1}, two, {id: 3}]}
        """
    assert found(text, flow) == []


def test_a_blocking_service_is_asked_at_once() -> None:
    flow = Flow[Any]("f").map_async(Service("s", lambda value: value + 1, blocking=True, timeout=1))
    assert found("{given: [1], expect: {ok: [2], seconds: 0}}", flow) == []


def test_values_can_come_in_slowly_and_a_drain_takes_no_more() -> None:
    text = """
        given: {generate: 4}
        every: 1s
        events: [{at: 1.5s, drain: true}]
        expect: {received: 2, ok: [1, 2], reason: draining}
        """
    assert found(text) == []


def test_the_client_leaves_and_what_is_in_flight_is_cancelled() -> None:
    text = """
        given: {generate: 4}
        events: [{at: 120ms, client: disconnects}]
        expect: {ok: 0, failed: 0, cancelled: [{orderId: 1}, 2, 3, 4], dead_letters: 0, seconds: 120ms,
                 reason: disconnected}
        """
    assert found(text) == []


def test_an_abort_cancels() -> None:
    assert (
        found("{given: {generate: 2}, events: [{at: 10ms, abort: true}], expect: {cancelled: 2, reason: aborted}}")
        == []
    )


def test_while_the_store_is_down_failures_wait() -> None:
    text = """
        given: {generate: 3}
        when: {inventory: {orderId: 3, raises: no}}
        events: [{store: down, from: 0s, to: 5s}]
        expect: {ok: [1, 2], failed: [3], dead_letters: [{key: 3, step: inventory}]}
        """
    tried = verdict(text)
    assert tried.passed
    assert 5.0 <= tried.run.summary.seconds < 10.0


def test_a_letter_that_was_stored_before_the_client_left_counts_as_failed() -> None:
    text = """
        given: {generate: 3}
        client_delay: 10s
        when: {inventory: {orderId: 3, raises: no}, pricing: {returns: 1}}
        events: [{at: 1s, client: disconnects}]
        expect: {failed: [{key: 3, step: inventory, attempts: 2}], dead_letters: [3], cancelled: [1, 2]}
        """
    assert found(text) == []


def test_a_slow_client_slows_the_source() -> None:
    text = """
        given: {generate: 4}
        window: 2
        client_delay: 1s
        when: {inventory: {returns: 1}}
        expect: {ok: 4, in_flight: 2, seconds: 4.2s}
        """
    assert found(text) == []


def test_the_window_can_be_in_bytes() -> None:
    text = "{given: {generate: 4}, window: {elements: 3, bytes: 30B}, expect: {received: 4, in_flight: {max: 2}}}"
    assert found(text) == []


def test_results_can_be_asked_for_in_the_order_of_the_input() -> None:
    slow = "when: {inventory: {returns: 1}, pricing: {orderId: 1, delay: 9s}}"
    assert found(f"{{given: {{generate: 2}}, {slow}, expect: {{order: [2, 1]}}}}") == []
    assert found(f"{{given: {{generate: 2}}, {slow}, order: input, expect: {{order: [1, 2]}}}}") == []


def test_results_can_be_asked_for_in_the_order_of_the_key() -> None:
    slow = "when: {inventory: {returns: 1}, pricing: {orderId: 1, delay: 9s}}"
    given_ = "given: [{orderId: 1}, {orderId: 1}, {orderId: 2}]"
    assert found(f"{{{given_}, {slow}, order: key, expect: {{order: [2, 1, 1]}}}}") == []
    with pytest.raises(FlowFileError, match="order: key: flow f has no key"):
        found("{given: [1], order: key, expect: {ok: 1}}", Flow[Any]("f"))


def test_the_calls_at_once_of_a_service_are_counted() -> None:
    flow = Flow[Any]("f").map_async(Service("s", echo, max_in_flight=2))
    assert found("{given: [1, 2, 3], when: {s: {delay: 1s}}, expect: {peak_calls: {s: 2}, seconds: 2s}}", flow) == []


def test_what_is_filtered_is_named_as_it_came_in() -> None:
    flow = Flow[Any]("f", key="id").map(lambda value: {**value, "n": 1}).filter(lambda value: value["id"] > 1)
    assert found("{given: [{id: 1}, {id: 2}], expect: {filtered: [{id: 1}], ok: [2]}}", flow) == []


def test_a_flow_without_keys_is_compared_by_its_values() -> None:
    flow = Flow[Any]("f").map(lambda value: 6 // value)
    assert found("{given: [1, 2, 0], expect: {ok: [6, 3], failed: [0], order: [6, 3, 0]}}", flow) == []


def test_parts_are_results_of_their_own_and_share_a_letter() -> None:
    flow = Flow[Any]("f").flat_map(lambda value: value).map(lambda value: 6 // value, name="share")
    text = """
        given: [[1, 2], [0, 0]]
        expect: {ok: [6, 3], failed: [{seq: 1, part: 0}, {seq: 1, part: 1}], dead_letters: [{seq: 1, step: share}]}
        """
    assert found(text, flow) == []


def test_outlets_collect_what_they_are_handed() -> None:
    text = "{given: {generate: 3}, expect: {delivered: {audit: [1, {orderId: 2, inventory: {inStock: true}}]}}}"
    assert found(text, DELIVERED) == []


def test_an_outlet_can_refuse() -> None:
    text = """
        given: {generate: 2}
        when: {audit: {orderId: 2, raises: {type: DiskFull}}}
        expect: {failed: [{key: 2, step: audit, type: DiskFull}], delivered: {audit: [1]}}
        """
    assert found(text, DELIVERED) == []


def test_outlets_and_services_on_branches_are_played_too() -> None:
    flow = Flow[Any]("f", key="id").route(
        large=When(lambda v: v["id"] > 1, lambda f: f.map_async(Service.http("h", "http://127.0.0.1:1"), name="ask")),
        small=Otherwise(lambda f: f.to(Folder(""), Folder("")), final=True),
    )
    text = """
        given: [{id: 1}, {id: 2}]
        when: {h: {returns: {id: 2, asked: true}}}
        expect: {ok: [{id: 2, asked: true}, {id: 1}], delivered: {to: [1], to.2: [1]}, calls: {h: 1}}
        """
    assert found(text, flow) == []


def test_a_flow_that_breaks_fails_the_test_whatever_is_expected() -> None:
    def broken(_: Any) -> Any:
        raise RunError("a bug")

    flow = Flow[Any]("f").samples(broken)
    assert found("{given: {generate: 1}, expect: {received: 0}}", flow) == [
        "run: failed: the source iterable failed: a bug"
    ]
    assert found("{given: {generate: 1}, expect: {reason: failed}}", flow) == []


def test_a_test_that_leaves_something_behind_fails() -> None:
    tasks: list[Any] = []

    async def start(value: Any) -> Any:
        tasks.append(asyncio.get_running_loop().create_task(asyncio.sleep(9), name="forgotten"))
        return value

    (difference,) = found("{given: [1], expect: {ok: [1]}}", Flow[Any]("f").map_async(start))
    assert difference.startswith("run: not released: the task forgotten, the timer")


def test_what_breaks_beside_the_run_fails_the_test() -> None:
    def look(_: Any) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)

    assert found("{given: [1], expect: {ok: [1]}}", Flow[Any]("f").tap(look)) == [
        "run: error outside of the run: integer division or modulo by zero"
    ]


def test_a_run_without_end_is_cut_after_a_day() -> None:
    service = Service("s", echo, attempts=1_000_000, backoff=Backoff(first=3600, cap=3600))
    assert found(
        "{given: [1], when: {s: {raises: no}}, expect: {cancelled: 1}}", Flow[Any]("f").map_async(service)
    ) == ["run: the run did not end within 86400 s of virtual time"]


def test_two_different_services_of_one_name_cannot_be_played() -> None:
    flow = Flow[Any]("f").map_async(echo, name="s").enrich(s=echo, name="t").map_async(run_test, name="s")
    with pytest.raises(
        FlowDefinitionError, match="two different services of flow f have the name s; give them different names"
    ):
        verdict("{given: [1], expect: {ok: 1}}", flow)


def test_a_ten_minute_backoff_is_no_wait() -> None:
    service = Service("s", echo, attempts=2, backoff=Backoff(first=1200, cap=1200))
    text = "{given: [1], when: {s: {call: 1, raises: no}}, seed: 4, expect: {ok: [1]}}"
    assert verdict(text, Flow[Any]("f").map_async(service)).run.summary.seconds > 60


def test_the_seed_decides_what_is_left_to_chance_and_nothing_else_does() -> None:
    drawn = Flow[Any]("f").map(lambda _: random.random())
    retried = ORDERS.map_async(Service("s", echo, attempts=9, backoff=Backoff(first=60)))
    text = "[{name: a, given: {generate: 2}, when: {s: {attempt: [1, 2], raises: no}}, expect: {ok: 2}}]"
    (case,) = cases(text, retried)
    (plain,) = cases("[{name: a, given: [1], expect: {ok: 1}}]", drawn)
    (down,) = cases("[{name: a, given: ['?'], events: [{store: down, to: 1s}], expect: {failed: 1}}]")
    for flow, one in ((retried, case), (drawn, plain), (ORDERS, down)):
        first, again, other = (_outcome(run_test(flow, one, seed=seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != other


def _outcome(run: FlowTestRun) -> Any:
    """What happened and what came out, without the ids of letters."""
    return run.trace, [record.get("value") for record in run.results]


def test_what_is_drawn_elsewhere_goes_on_undisturbed() -> None:
    (case,) = cases("[{name: a, given: [], expect: {ok: 0}}]")
    random.seed(7)
    wanted = [random.random(), random.random()]
    random.seed(7)
    first = random.random()
    run_test(ORDERS, case)
    assert [first, random.random()] == wanted


def test_what_happens_at_the_same_time_happens_in_turn() -> None:
    text = "{given: {generate: 20}, when: {inventory: {returns: 1, delay: 1s}}, expect: {order: [%s]}}"
    assert found(text % ", ".join(map(str, range(1, 21)))) == []


@settings(max_examples=60, deadline=None)
@given(plan=plans(sources=("iterable",), events=(None,), stores=(None,)), seed=st.integers(0, 9), data=st.data())
def test_any_test_of_any_flow_has_the_same_trace_again_and_agrees_with_its_summary(
    plan: Any, seed: int, data: st.DataObject
) -> None:
    def flow() -> Flow[Any]:
        return flow_of(plan, Spy(), None, None)

    names = [service.name for service in flow().all_services]
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=2)) if names else []
    case = FlowTest(
        name="any",
        given=tuple({"id": number} for number in range(plan.count)),
        expected=Expectation(),
        rules={name: (StubRule(raises=StubError(message="no"), attempts=(1,)), StubRule(delay=0.3)) for name in chosen},
        every=data.draw(st.sampled_from((0.0, 0.4))),
        client_delay=plan.pace,
        window=Window(elements=plan.elements),
        order="input" if plan.ordered else "completion",
        events=data.draw(st.sampled_from(((), (StoreOutage(0.5, 2.0),)))),
    )
    first, again = run_test(flow(), case, seed=seed), run_test(flow(), case, seed=seed)
    assert first.trace == again.trace
    fates = [outcome_of(element) for element in first.recorder.elements.values()]
    summary = first.summary
    assert [fates.count(outcome) for outcome in Outcome] == [
        summary.ok,
        summary.failed,
        summary.filtered,
        summary.cancelled,
    ]
    assert [str(one) for one in verify(first).differences if one.subject == "run"] == []
