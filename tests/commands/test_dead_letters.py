"""`penstock dead-letters …`: the same commands on a store and through a service, and what only one of them does."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

import forking
from commands import killing
from commands.desk_place import DeskPlace
from invoking import invoke
from stores.letters import expire_leases
from waiting import HANG_SECONDS, ending, until

ITEMS = [{"id": number, "currency": "EUR"} for number in range(1, 11)]
"""Of these, those with an odd id fail while stock is down."""


@pytest.fixture(params=["store", "service"])
def desk(request, tmp_path):
    """A place with letters, in a store and behind a service."""
    place = DeskPlace(tmp_path, service=request.param == "service")
    yield place
    place.close()


@pytest.fixture
def local(tmp_path):
    """A place with letters in a store."""
    return DeskPlace(tmp_path, service=False)


def test_a_list_without_filters_starts_with_the_groups_and_the_total(desk):
    """One line for each cause, the sum by state, then the letters; with a filter only the letters."""
    desk.fail([*ITEMS, {"id": 12}, {"id": 14}])

    code, out, err = desk.run("list")
    lines = out.splitlines()
    groups = lines[: lines.index("")]

    assert (code, err) == (0, "")
    assert groups[0].split()[:2] == ["GROUP", "WAITING"]
    assert sorted(line.split()[1] for line in groups[1:-1]) == ["2", "5"]
    assert groups[-1] == "total: 7 letters (7 waiting)"
    assert len(lines) == len(groups) + 1 + 1 + 7
    assert len(desk.run("list", "--type", "NoCurrency")[1].splitlines()) == 1 + 2


def test_filters_and_ids_select_letters(desk):
    """Group, flow, step, type, state, key, times and ids select what the commands work on."""
    desk.fail([*ITEMS, {"id": 12}])
    group = next(group for group in desk.documents("groups") if group["type"] == "StockDown")
    ids = [letter["id"] for letter in desk.documents("list")]

    assert group["counts"] == {"waiting": 5}
    assert len(desk.documents("list", "--group", group["id"])) == 5
    assert len(desk.documents("list", "--step", "stock", "--flow", "shop")) == 5
    assert [letter["key"] for letter in desk.documents("list", "--key", "7")] == [7]
    assert desk.documents("list", "--since", "2990-01-01") == []
    assert [letter["id"] for letter in desk.documents("list", *ids[:3])] == ids[:3]


def test_letters_are_parked_and_wait_again(desk):
    """Park and unpark say how many; the audit has who did it and why."""
    desk.fail(ITEMS)

    assert desk.run("park", "--key", "3", "--reason", "hopeless")[:2] == (0, "1 letter parked\n")
    assert desk.counts() == {"parked": 1, "waiting": 4}
    assert desk.run("unpark", "--all", "--json")[:2] == (0, '{"count":1}\n')
    assert desk.counts() == {"waiting": 5}
    unparked, parked = desk.documents("audit")
    assert (parked["action"], parked["reason"], parked["count"], parked["query"]) == ("park", "hopeless", 1, {"key": 3})
    assert unparked["action"] == "unpark"
    assert parked["requester"] == unparked["requester"] != ""
    assert "hopeless" in desk.run("audit")[1]


def test_nothing_that_matches_is_a_failure(desk):
    """Who asks for an action and gets none sees it by the exit code."""
    desk.fail(ITEMS)

    for words in (["park"], ["purge", "--yes"], ["redrive", "--yes"], ["plan"], ["edit", "--set", "id=1", "--yes"]):
        code, out, err = desk.run(*words, "--key", "999")
        assert (code, out) == (1, ""), words
        assert "no " in err, words


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["park"], "select letters by ids or filters such as --group ID, or all letters with --all"),
        (["purge", "--yes"], "or all letters with --all"),
        (["purge", "--all", "--flow", "shop"], "--all cannot be combined"),
        (["edit", "--set", "id=1"], "or all letters with --all"),
        (["edit", "--all"], "expected either --set FIELD=EXPRESSION or --input FILE"),
        (["edit", "--key", "1", "--input", "-"], "--input: expected one id, and no filter"),
        (["park", "zz"], "invalid id of a dead letter: 'zz'"),
        (["redrive", "--canary", "1,x"], "expected numbers of letters such as 1,5,50, got '1,x'"),
        (["redrive", "--stop-at", "20/s"], "expected a percentage such as 20%, got '20/s'"),
        (["redrive", "--rate", "0/s"], "expected a rate such as 50/s or 600/m, got '0/s'"),
        (["redrive", "--state", "parked"], "--state"),
        (["rate", "job", "fast"], "expected a rate such as 50/s"),
        (["list", "--url", "http://x", "--flows", "f.yaml"], "--url and --flows cannot be combined"),
        (["list", "--url", "http://x", "--dead-letters", "sqlite:///x.db"], "cannot be combined"),
        (["list", "--url", "x"], "expected the URL of a service, such as http://127.0.0.1:8080, got 'x'"),
        (["list", "--flows", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(words, hint, tmp_path, monkeypatch):
    """What was meant cannot be known, so nothing is done."""
    monkeypatch.chdir(tmp_path)

    result = invoke("dead-letters", *words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert hint in result.stderr


def test_deleting_and_redriving_ask_first(desk):
    """Without a terminal they refuse, say what would be done, and name `--yes`; nothing is changed."""
    desk.fail(ITEMS)

    purge = desk.run("purge", "--type", "StockDown")
    redrive = desk.run("redrive")

    assert (purge[0], purge[1], redrive[0], redrive[1]) == (2, "", 2, "")
    assert "total: 5 letters (5 waiting)" in purge[2]
    assert "Delete 5 letters? There is no terminal to ask on; confirm with --yes" in purge[2]
    assert "calls stock for 5 letters" in redrive[2]
    assert "uses the kept result of price for 5 letters" in redrive[2]
    assert "Redrive 5 letters? There is no terminal" in redrive[2]
    assert desk.counts() == {"waiting": 5}
    assert desk.documents("jobs") == desk.documents("audit") == []


@pytest.mark.skipif(sys.platform != "linux", reason="forking.py gives a process a controlling terminal on Linux only")
@pytest.mark.parametrize(
    ("answer", "code", "left"), [(b"y\n", 0, {}), (b"n\n", 1, {"waiting": 5}), (b"\x03", 1, {"waiting": 5})]
)
def test_on_a_terminal_the_answer_decides(local, answer, code, left):
    """Yes deletes, no and Ctrl-C do not."""
    pty = pytest.importorskip("pty", reason="there are no terminals like this here")
    local.fail(ITEMS)
    ours, theirs = pty.openpty()
    process = forking.start(
        *("dead-letters", "purge", "--all", *local.words[:2]),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=local.folder,
        start_new_session=True,
    )
    with ending(process):
        said = b""
        while b"[y/N]" not in said:
            said += os.read(process.stderr.fileno(), 4096)
        os.write(ours, answer)
        assert process.wait(HANG_SECONDS) == code
    os.close(ours)
    os.close(theirs)

    assert local.counts() == left


def test_letters_are_deleted(desk):
    """Purge deletes what matches, and says how many."""
    desk.fail([*ITEMS, {"id": 12}])

    assert desk.run("purge", "--type", "NoCurrency", "--yes")[:2] == (0, "1 letter deleted\n")
    assert desk.counts() == {"waiting": 5}


def test_a_plan_says_what_a_redrive_would_do(desk):
    """Letters, groups, calls, kept results and the duration at the rate; nothing is called or changed."""
    desk.fail(ITEMS)
    desk.repair()

    (plan,) = desk.documents("plan", "--rate", "1/s")

    assert (plan["letters"], plan["services"], plan["kept"], plan["seconds"]) == (5, {"stock": 5}, {"price": 5}, 5.0)
    assert [(group["type"], group["letters"]) for group in plan["groups"]] == [("StockDown", 5)]
    (again,) = desk.documents("plan", "--from-start")
    assert again["services"] == {"price": 5, "stock": 5}
    assert "5 letters, at least 5 s\n" in desk.run("plan", "--rate", "1/s")[1]
    assert desk.calls() == []


def test_a_redrive_calls_only_what_failed(desk):
    """When stock works again, all letters are resolved, and prices are not asked for again."""
    desk.fail(ITEMS)
    desk.repair()

    code, out, _ = desk.run("redrive", "--yes", "--reason", "stock is back")

    assert code == 0
    assert re.fullmatch(r"job \S+ is completed: 5 letters, 5 resolved, 0 failed again\n", out)
    assert sorted(desk.calls()) == [f"stock {id}" for id in (1, 3, 5, 7, 9)]
    assert desk.counts() == {"resolved": 5}
    (job,) = desk.documents("jobs")
    assert (job["state"], job["reason"], job["counts"]["resolved"]) == ("completed", "stock is back", 5)
    code, out, _ = desk.run("show", desk.documents("list")[0]["id"])
    assert re.search(r"^redrive   1 \S+ resolved, job " + job["id"], out, re.MULTILINE)
    assert job["id"] in desk.run("jobs")[1]
    assert "BATCH" in desk.run("jobs", job["id"])[1]


def test_a_canary_batch_stops_the_job_and_resume_continues_it(desk):
    """Too many failures in the first batch stop the job with exit code 1; after the repair, resume completes it."""
    desk.fail(ITEMS)

    code, out, err = desk.run("redrive", "--yes", "--canary", "1,2", "--stop-at", "20%")
    job = desk.documents("jobs")[0]["id"]

    assert code == 1
    assert "is stopped: 5 letters, 0 resolved, 1 failed again, 4 open" in out
    assert "inspect them, then resume the job\n" in err
    assert err.count(f"penstock dead-letters resume {job}") == 1
    assert f"to continue: penstock dead-letters resume {job} --" in err
    desk.repair()
    code, out, _ = desk.run("resume", job)
    assert code == 1  # one letter failed again before
    assert "is completed: 5 letters, 4 resolved, 1 failed again" in out
    assert desk.run("redrive", "--yes")[0] == 0
    assert desk.counts() == {"resolved": 5}


def test_failing_again_is_exit_code_1(desk):
    """A job that completes with failures says so by its exit code; JSON has the counts."""
    desk.fail(ITEMS)

    code, out, _ = desk.run("redrive", "--yes", "--json")

    assert code == 1
    job = json.loads(out)
    assert (job["state"], job["counts"]["failed"]) == ("completed", 5)
    assert {letter["redrives"] for letter in desk.documents("list")} == {1}


def test_a_try_shows_outcomes_and_changes_nothing(desk):
    """Some letters run with real services; no job is created, and no letter changes."""
    desk.fail(ITEMS)
    failing = desk.run("redrive", "--try", "2")
    desk.repair()
    working = desk.run("redrive", "--try", "2", "--json")

    assert (failing[0], working[0]) == (1, 0)
    assert "StockDown" in failing[1]
    assert [json.loads(line)["value"]["stock"] for line in working[1].splitlines()] == [{"left": 1}] * 2
    assert desk.counts() == {"waiting": 5}
    assert desk.documents("jobs") == []


def test_letters_run_through_another_flow(desk):
    """`--through` names the flow that runs the letters; `--flow` selects them."""
    desk.fail(ITEMS)
    desk.repair()

    assert desk.run("redrive", "--flow", "shop", "--through", "other", "--yes")[0] == 0
    assert desk.calls() == []
    assert desk.counts() == {"resolved": 5}


def test_an_unknown_flow_creates_no_job(desk):
    """The message names the flows that are known; nothing is reserved."""
    desk.fail(ITEMS)

    code, out, err = desk.run("redrive", "--through", "nope", "--yes")

    assert (code, out) == (1, "")
    assert "the flow nope is not loaded (loaded: other, shop); load it" in err
    assert desk.documents("jobs") == []


def test_letters_of_a_flow_that_is_not_loaded_create_no_job(local):
    """A redrive of them in another process can be created: with --detach."""
    local.fail(ITEMS)
    local.words = local.words[:2]

    code, out, err = local.run("redrive", "--yes")

    assert (code, out) == (1, "")
    assert "the flow shop is not loaded (loaded: orders); load it" in err
    assert local.documents("jobs") == []
    assert local.run("redrive", "--yes", "--detach")[0] == 0
    assert [job["state"] for job in local.documents("jobs")] == ["running"]


def test_one_letter_gets_another_input(desk):
    """`edit ID --input` replaces it; the input before stays in the history, with who and why."""
    desk.fail([{"id": 12}])
    letter = desk.documents("list")[0]["id"]

    code, out, _ = desk.run(
        "edit", letter, "--input", "-", "--reason", "sent again", stdin=b'{"id": 12, "currency": "USD"}'
    )

    assert (code, out) == (0, f"letter {letter} edited\n")
    shown = desk.run("show", letter)[1]
    assert '{"id": 12, "currency": "USD"}' in shown
    assert re.search(r'^edited    \S+ by \S+: sent again; before: {"id": ?12}$', shown, re.MULTILINE)
    invalid = desk.run("edit", letter, "--input", "-", stdin=b"{")
    assert (invalid[0], "not valid JSON" in invalid[2]) == (2, True)
    assert desk.run("redrive", "--yes")[0] == 0


def test_letters_are_changed_by_an_expression(desk):
    """Five letters are shown before and after; then all that match are changed, and the redrive works."""
    desk.fail([{"id": number} for number in range(2, 16, 2)], down=False)

    refused = desk.run("edit", "--type", "NoCurrency", "--set", 'currency="EUR"')
    code, out, err = desk.run("edit", "--type", "NoCurrency", "--set", 'currency="EUR"', "--yes")

    assert refused[0] == 2
    assert "Change 7 letters? There is no terminal" in refused[2]
    assert (code, out) == (0, "7 letters changed\n")
    assert err.count("  before  ") == err.count("  after   ") == 5
    assert '"currency":"EUR"' in err.replace(" ", "")
    assert desk.run("redrive", "--yes")[0] == 0
    assert desk.counts() == {"resolved": 7}


def test_an_expression_that_fails_changes_nothing(desk):
    """A letter whose expression fails stays as it was, and the exit code is 1."""
    desk.fail([{"id": 2}, {"id": 4, "currency": "", "amount": 3}], down=False)

    code, out, err = desk.run("edit", "--all", "--set", "amount=amount*2", "--yes")

    assert (code, out) == (1, "1 letter changed\n")
    assert "1 letter could not be changed, such as:" in err
    code, out, err = desk.run("edit", "--all", "--set", "amount=", "--yes")
    assert (code, out) == (2, "")
    assert "invalid assignment 'amount='" in err


def test_letters_move_to_another_store(desk, tmp_path):
    """What `export` writes, `import` stores with the same ids; importing it again skips all."""
    desk.fail([*ITEMS, {"id": 12}])
    exported = desk.run("export")[1]
    other = ["--dead-letters", f"sqlite:///{tmp_path}/other.db"]
    (tmp_path / "letters.ndjson").write_text(exported)

    first = invoke("dead-letters", "import", tmp_path / "letters.ndjson", *other)
    second = invoke("dead-letters", "import", tmp_path / "letters.ndjson", *other)
    back = desk.run("import", "-", stdin=exported.encode())

    assert (first.exit_code, first.stdout) == (0, "6 letters imported\n")
    assert "redrives and edits that the letters had, and the audit, stay in the other store" in first.stderr
    assert (second.exit_code, second.stdout) == (0, "0 letters imported, 6 known already\n")
    assert back[:2] == (0, "0 letters imported, 6 known already\n")
    assert invoke("dead-letters", "export", *other).stdout == exported
    none = desk.run("export", "--flow", "nope")
    assert (none[:2], "has no such dead letters with flow nope" in none[2]) == ((1, ""), True)
    broken = desk.run("import", "-", stdin=exported.splitlines()[0].encode() + b"\n{}\n")
    assert (broken[0], "line 2" in broken[2]) == (1, True)


def test_a_job_is_paused_changed_and_cancelled(desk):
    """State and rate of a running job change from another process; a cancelled one cannot be changed."""
    desk.fail(ITEMS)
    desk.repair()
    assert desk.run("redrive", "--yes", "--rate", "1/m", "--canary", "1,1", "--detach")[0] == 0
    job = desk.documents("jobs")[0]["id"]

    assert f"job {job} is paused" in desk.run("pause", job, "--reason", "lunch")[1]
    assert desk.run("rate", job, "120/m")[1] == f"job {job}: 2 letters per second\n"
    assert desk.run("rate", job, "none")[1] == f"job {job}: no rate\n"
    assert desk.documents("jobs", "--state", "paused")[0]["id"] == job
    (cancelled,) = desk.documents("cancel", job)
    assert cancelled["state"] == "cancelled"
    code, _, err = desk.run("resume", job)
    assert (code, "is cancelled and cannot be changed" in err) == (1, True)
    actions = [record["action"] for record in desk.documents("audit", "--job", job)]
    assert actions == ["cancel", "rate", "rate", "pause", "redrive"]
    assert desk.run("pause", "unknown")[0] == 1


def test_ctrl_c_pauses_the_job_after_its_letters_are_settled(local):
    """SIGINT stops claiming, settles what is in flight, pauses, and names the command that continues."""
    local.fail([{"id": number, "currency": "EUR"} for number in range(1, 2001)])
    local.repair()
    (local.folder / "slow").touch()
    process = local.start("redrive", "--yes", "--rate", "100/s")
    with ending(process):
        until(lambda: len(local.calls()) > 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_SECONDS)

    job = local.documents("jobs")[0]
    assert process.returncode == 1
    assert (job["state"], job["runner"]) == ("paused", None)
    assert f"penstock dead-letters resume {job['id']} --dead-letters" in err.decode()
    assert f"job {job['id']} is paused: 1,000 letters, {job['counts']['resolved']:,} resolved" in out.decode()
    assert local.counts() == {"resolved": job["counts"]["resolved"], "waiting": job["counts"]["open"]}
    assert job["counts"]["resolved"] == len(set(local.calls()))
    (local.folder / "slow").unlink()
    local.run("rate", job["id"], "none")
    assert local.run("resume", job["id"])[0] == 0
    assert local.counts() == {"resolved": 1000}
    assert len(local.calls()) == len(set(local.calls())) == 1000


def test_a_killed_redrive_continues_after_the_lease(local):
    """After kill -9, resume waits for the lease, and takes the rest: nothing is lost.

    The half minute until then is not waited for: its end is set in the store.
    """
    local.fail([{"id": number, "currency": "EUR"} for number in range(1, 401)])
    local.repair()
    (local.folder / "slow").touch()
    process = local.start("redrive", "--yes", "--rate", "100/s")
    with ending(process):
        until(lambda: len(local.calls()) > 20)
        process.kill()
        process.wait(HANG_SECONDS)
    job = local.documents("jobs")[0]
    assert job["state"] == "running"

    (local.folder / "slow").unlink()
    local.run("rate", job["id"], "none")
    called = len(local.calls())
    process = local.start("resume", job["id"])
    with ending(process):
        with pytest.raises(subprocess.TimeoutExpired):  # the letters that nobody has claimed take a tenth of that
            process.wait(3)
        assert len(local.calls()) == called
        expire_leases(local.folder / "letters.db")
        out, _ = process.communicate(timeout=HANG_SECONDS)

    assert (process.returncode, b"is completed: 200 letters, 200 resolved" in out) == (0, True)
    assert local.counts() == {"resolved": 200}


def test_a_store_that_a_service_uses_can_be_worked_on(tmp_path):
    """Commands on the file and the service see the same letters, and a job created here runs there."""
    place = DeskPlace(tmp_path, service=True)
    try:
        place.fail(ITEMS)
        place.repair()
        there = place.words
        place.words = ["--dead-letters", f"sqlite:///{tmp_path}/letters.db", "--flows", "flows"]
        assert place.counts() == {"waiting": 5}
        assert place.run("park", "--key", "1")[0] == 0
        assert place.run("redrive", "--yes", "--detach")[0] == 0
        job = place.documents("jobs")[0]["id"]
        place.words = there
        until(lambda: place.documents("jobs")[0]["state"] == "completed")
        assert place.documents("jobs")[0]["id"] == job
        assert place.counts() == {"parked": 1, "resolved": 4}
    finally:
        place.close()


def test_the_store_of_the_flows_is_used_if_no_other_is_named(local):
    """With --flows and without --dead-letters, the store that the flow names is meant."""
    local.fail(ITEMS)
    local.words = ["--flows", "flows"]

    assert local.counts() == {"waiting": 5}


def test_messages_name_the_stores_that_were_searched(local):
    """All of them, with what a variable stands for."""
    other = local.folder / "flows" / "other.yaml"
    other.write_text(other.read_text().replace(local.words[1], f"sqlite:///{local.folder}/others.db"))
    local.fail(ITEMS)
    killing.run(local.folder, "run", "flows/other.yaml", stdin=b"rubbish\n")
    stores = f"sqlite:///{local.folder}/others.db and {local.words[1]} have no"
    local.words = local.words[2:]

    assert f"{stores} dead letter xyz" in local.run("show", "xyz")[2]
    assert f"{stores} groups of dead letters that match" in local.run("groups", "--flow", "nope")[2]


def test_a_service_that_is_not_there_is_said(tmp_path, monkeypatch):
    """A refused connection, another program and a missing token are clear messages with exit code 1."""
    result = invoke("dead-letters", "list", "--url", "http://127.0.0.1:1")

    assert result.exit_code == 1
    assert "the service at http://127.0.0.1:1 cannot be reached: connection refused" in result.stderr


def test_the_token_is_that_of_the_variable(tmp_path, monkeypatch):
    """PENSTOCK_TOKEN is sent; without it the message says what to set."""
    from service.processes import serving

    with serving(tmp_path, env={"PENSTOCK_TOKEN": "secret"}) as process:
        url = f"http://127.0.0.1:{process.port}"
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        without = invoke("dead-letters", "list", "--url", url)
        monkeypatch.setenv("PENSTOCK_TOKEN", "secret")
        with_token = invoke("dead-letters", "groups", "--url", url)

    assert (without.exit_code, with_token.exit_code) == (1, 0)
    assert "set PENSTOCK_TOKEN to a token of the service" in without.stderr


def test_help_lists_the_commands_without_importing_them():
    """Help and completion stay fast: no database, HTTP client or flow is imported for them."""
    code = (
        "import sys; from penstock.cli.main import main; main(['dead-letters', '--help']);"
        "sys.exit(bool({'sqlalchemy', 'aiohttp', 'reactivex', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "  redrive  Run dead letters again, as a job." in done.stdout


def test_a_log_is_listed_exported_and_redriven_and_nothing_else(tmp_path, nats_server):
    """On JetStream: list, export and redrive work; everything else is refused with exit code 2 and what to use."""
    place = DeskPlace(tmp_path, service=False)
    url = f"{nats_server.url}/commands"
    flow = tmp_path / "flows" / "shop.yaml"
    flow.write_text(flow.read_text().replace(place.words[1], url))
    place.words = ["--dead-letters", url, "--flows", "flows"]
    place.fail(ITEMS)
    place.repair()

    assert len(place.documents("list")) == 5
    assert len(place.run("export")[1].splitlines()) == 5
    assert place.run("redrive", "--yes", "--detach")[0] == 2
    for words in (
        ["groups"],
        ["park", "--all"],
        ["purge", "--all", "--yes"],
        ["edit", "--all", "--set", "a=1"],
        ["plan"],
    ):
        code, out, err = place.run(*words)
        assert (code, out) == (2, ""), words
        assert "because it is a log; list, export and redrive are possible" in err, words
    code, out, err = place.run("redrive", "--yes")
    assert (code, out) == (0, "5 letters: 5 resolved, 0 failed again and were appended again\n")
    assert sorted(place.calls()) == [f"stock {id}" for id in (1, 3, 5, 7, 9)]
    place.fail([{"id": 21, "currency": "EUR"}])
    code, out, err = place.run("redrive", "--yes", "--limit", "1")
    assert code == 1, err
    assert out == "1 letter: 0 resolved, 1 failed again and were appended again, 1 of these parked\n"
