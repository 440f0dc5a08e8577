"""`penstock dead-letters`: data on standard output, everything else on standard error, and an exit code that tells."""

import asyncio
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import forking
from invoking import invoke
from penstock.deadletters import DeadLetter, as_document, create_store
from penstock.support.ids import new_id, now
from stores.letters import grouped
from waiting import HANG_SECONDS, ending

NOON = datetime(2020, 3, 1, 12, tzinfo=UTC)


def letter(seq=0, **facts):
    plain = {
        "id": new_id(), "flow": "orders", "run": "r", "seq": seq, "key": seq, "step": "inventory",
        "type": "InventoryUnavailable", "message": "Inventory unavailable", "attempts": 2, "input": b'{"orderId":3}',
        "input_size": 13, "started_at": NOON, "failed_at": NOON + timedelta(seconds=seq),
    }  # fmt: skip
    return grouped(DeadLetter(**(plain | facts)))


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch, tmp_path):
    monkeypatch.delenv("PENSTOCK_DEAD_LETTERS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path):
    """Stores letters in the file that is looked at by default."""

    def add(*letters, url="sqlite:///penstock.db"):
        async def fill():
            store = create_store(url)
            await store.open()
            await store.add(letters)
            await store.aclose()

        asyncio.run(fill())
        return letters

    return add


def run(*words):
    """Run the command in this process. Returns its exit code and its output."""
    result = invoke("dead-letters", *words)
    return result.exit_code, result.stdout_bytes, result.stderr


def one_group():
    (group,) = [json.loads(line)["id"] for line in run("groups", "--json")[1].splitlines()]
    return group


def cells(line):
    return [cell for cell in line.decode().split("  ") if cell]


def test_a_list_is_a_table_with_a_line_for_each_letter(store):
    """Id, time, flow, key, step, type and message, oldest first, under each other."""
    first, second = store(letter(3), letter(12, type="CallTimeout", message="late"))

    code, out, err = run("list", "--flow", "orders")

    head, *lines = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split() == [b"ID", b"TIME", b"FLOW", b"KEY", b"STEP", b"TYPE", b"MESSAGE"]
    facts = ["2020-03-01T12:00:03Z", "orders", "3", "inventory", "InventoryUnavailable", "Inventory unavailable"]
    assert [cell.strip() for cell in cells(lines[0])] == [first.id, *facts]
    assert [cell.strip() for cell in cells(lines[1])][0::5] == [second.id, "CallTimeout"]
    assert head.index(b"MESSAGE") == lines[0].index(b"Inventory u") == lines[1].index(b"late")


def test_json_is_a_document_a_line(store):
    """With `--json` each line is the document that `GET /dead-letters/{id}` answers, for one or for many."""
    letters = store(
        letter(1), letter(2, input=b"\xff", partial_results={"a": {"b": [1]}}), letter(3, message="\ud800 Zoë")
    )

    code, out, _ = run("list", "--json")

    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == [one.id for one in letters]
    document = json.loads(out.splitlines()[1])
    assert document == as_document(letters[1]) | {"group": document["group"]}
    shown = json.loads(run("show", letters[1].id, "--json")[1])
    assert shown == json.loads(out.splitlines()[1]) | {"attempts": [], "edits": []}


@pytest.mark.parametrize(
    ("words", "seqs"),
    [
        (["--flow", "sales"], [5]),
        (["--run", "other"], [4]),
        (["--step", "decode"], [3]),
        (["--type", "CallTimeout", "--state", "parked"], [2]),
        (["--since", "2020-03-01T12:00:04Z"], [4, 5]),
        (["--since", "2020-03-01T12:00:01", "--until", "2020-03-01T14:00:03+02:00"], [1, 2]),
    ],
)
def test_a_list_can_be_filtered(store, words, seqs):
    """By flow, run, step, type, state and time, all of which have to fit."""
    store(
        letter(1),
        letter(2, type="CallTimeout", state="parked"),
        letter(3, step="decode"),
        letter(4, run="other"),
        letter(5, flow="sales"),
    )

    _, out, _ = run("list", "--json", *words)

    assert [json.loads(line)["seq"] for line in out.splitlines()] == seqs


def test_a_limit_says_where_to_go_on(store):
    """What is left out is said on standard error, with the words that bring it; many pages are one list."""
    letters = store(*map(letter, range(2100)))

    _, some, said = run("list", "--json", "--limit", "2050")
    _, rest, nothing = run("list", "--json", "--after", said.split()[-1])

    assert [json.loads(line)["seq"] for line in (some + rest).splitlines()] == list(range(2100))
    assert (letters[2049].id in said, nothing) == (True, "")


def test_a_list_of_large_letters_is_whole(store):
    """It holds as many as were asked for, though they fill several pages."""
    store(*(letter(seq=seq, input=b"x" * 1_500_000) for seq in range(8)))

    code, out, err = run("list", "--flow", "orders", "--limit", "7")

    assert (code, len(out.splitlines())) == (0, 1 + 7)
    assert "there are more" in err


def test_a_table_of_many_pages_has_one_head_and_stays_aligned(store):
    """Columns are as wide as the first page needs them; what is longer later is cut."""
    store(*map(letter, range(1001)), letter(1001, step="a step of a very long name"))

    _, out, _ = run("list", "--flow", "orders", "--limit", "2000")

    lines = out.decode().splitlines()
    assert len(lines) == 1003
    assert sum("MESSAGE" in line for line in lines) == 1
    assert {line.index("Inventory u") for line in lines[1:]} == {lines[0].index("MESSAGE")}


def test_nothing_found_is_no_failure(store):
    """An empty list is said on standard error and ends with 0."""
    store(letter())

    code, out, err = run("list", "--flow", "sales")

    assert (code, out) == (0, b"")
    assert (
        err == "sqlite:///penstock.db has no dead letters that match; name another database with --dead-letters URL\n"
    )
    assert run("list", "--flow", "sales", "--dead-letters", "sqlite:///penstock.db")[2].endswith("letters that match\n")


def test_an_empty_store_has_no_letters_whether_they_match_or_not(store):
    """Only with a filter it is said that none match."""
    store()

    assert run("list")[2].startswith("sqlite:///penstock.db has no dead letters; name another")
    assert run("list", "--after", new_id())[2].startswith("sqlite:///penstock.db has no dead letters that match")


def test_a_letter_is_shown_with_everything(store):
    """Every fact on a line of its own, then what came in."""
    (one,) = store(
        letter(
            7,
            part=2,
            revision=4,
            key="k",
            cause="OSError: gone",
            partial_results={"pricing": 1},
            input=b'{\n"a":\xff\x1b}\n',
            input_size=13,
        )
    )

    code, out, err = run("show", one.id)

    assert (code, err) == (0, "")
    assert run("show", one.id.upper())[1] == out
    assert out.decode().splitlines() == [
        f"id        {one.id}",
        "state     waiting",
        f"group     {one_group()}",
        "flow      orders",
        "run       r",
        "revision  4",
        "seq       7, part 2",
        "key       k",
        "started   2020-03-01T12:00:00.000000Z",
        "failed    2020-03-01T12:00:07.000000Z",
        "step      inventory",
        "type      InventoryUnavailable",
        "message   Inventory unavailable",
        "attempts  2",
        "cause     OSError: gone",
        'partial   {"pricing":1}',
        "redrives  0",
        "input     13 bytes, 10 of them stored",
        "{",
        '"a":\\xff\\x1b}',
    ]


def test_nothing_that_came_in_reaches_the_terminal_as_a_command(store):
    """Escape sequences, line breaks and odd spaces of an input or a message are shown as what they are."""
    (one,) = store(letter(message="\x1b]0;title\x07 two\nlines \u202e", key="\x1b[2J", input=b"\x1b[2J\r\n\x9b"))

    for _, out, _ in (run("list"), run("show", one.id)):
        assert b"\\x1b]0;title\\x07 two\\nlines \\u202e" in out
        assert all(character.isprintable() or character == "\n" for character in out.decode())


def test_the_input_comes_out_as_it_came_in(store):
    """`--input` writes the original bytes and not one more, so that they can be sent again."""
    (one,) = store(letter(input=bytes(range(256)), input_size=256))

    assert run("show", one.id, "--input") == (0, bytes(range(256)), "")


def test_an_input_that_was_cut_is_said_to_be(store):
    """Its beginning comes out, and exit code 1 keeps it from being sent again unseen."""
    (one,) = store(letter(input=b'{"a', input_size=5000))

    code, out, err = run("show", one.id, "--input")

    assert (code, out) == (1, b'{"a')
    assert "the input had 5000 bytes, but 3 are stored" in err


def test_an_unknown_letter_is_a_failure(store):
    """Who asks for one letter and gets none has to see it by the exit code."""
    store(letter())

    code, out, err = run("show", "0190")

    assert (code, out) == (1, b"")
    assert "has no dead letter 0190; name another database with --dead-letters URL" in err
    assert run("show", "0190", "--dead-letters", "sqlite:///penstock.db")[2].endswith("has no dead letter 0190\n")


def test_the_store_is_the_flag_s_or_the_variable_s_or_the_default(store, monkeypatch, tmp_path):
    """The flag wins over PENSTOCK_DEAD_LETTERS, and that over sqlite:///penstock.db."""
    for seq, name in enumerate(("penstock", "variable", "flag")):
        store(letter(seq), url=f"sqlite:///{tmp_path}/{name}.db")

    by_default = run("list", "--json")[1]
    monkeypatch.setenv("PENSTOCK_DEAD_LETTERS", f"sqlite:///{tmp_path}/variable.db")
    by_variable = run("list", "--json")[1]
    by_flag = run("list", "--json", "--dead-letters", f"sqlite:///{tmp_path}/flag.db")[1]

    assert [json.loads(out)["seq"] for out in (by_default, by_variable, by_flag)] == [0, 1, 2]


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    """To look is not to create: exit code 1, the sentence of `StoreMissing`, and no file."""
    code, out, err = run("list")

    assert (code, out, list(tmp_path.iterdir())) == (1, b"", [])
    assert "there are no dead letters at sqlite:///penstock.db; name the database" in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "Commands:"),
        (["lsit"], "lsit"),
        (["list", "--cuont", "3"], "--cuont"),
        (["list", "--limit", "0"], "expected an integer >= 1, got '0'"),
        (["list", "--limit", "x"], "expected an integer >= 1, got 'x'"),
        (["list", "--since", "yesterday"], "since: expected a time like 2030-01-31T12:00:00Z, got 'yesterday'"),
        (["list", "--after", "zz"], "invalid id of a dead letter: 'zz'"),
        (["park", "zz"], "invalid id of a dead letter: 'zz'"),
        (["list", "--until", ""], "until: expected a time"),
        (["list", "--dead-letters", "memory:"], "GET /dead-letters"),
        (["list", "--dead-letters", "redis://x"], "unknown dead-letter store 'redis://x'"),
        (["show"], "ID"),
        (["show", "a", "--json", "--input"], "--json and --input cannot be combined"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(store, words, hint):
    """What was meant cannot be known, so nothing is shown."""
    store(letter())

    code, out, err = run(*words)

    assert (code, out) == (2, b"")
    assert hint in err


@pytest.mark.parametrize("limit", ["1", "5000"])
def test_a_reader_that_leaves_early_gets_no_traceback(store, limit):
    """`… | head -1`: with little or with much left to write, nothing is complained about."""
    store(*map(letter, range(5000)))
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = forking.start(
        *("dead-letters", "list", "--json", "--limit", limit),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=buffered,
    )
    with ending(process):
        if limit != "1":
            process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read().decode()
        code = process.wait(HANG_SECONDS)

    assert code == 1
    assert [line for line in said.splitlines() if "there are more" not in line] == []


def test_on_a_terminal_a_message_is_cut_to_the_width(store):
    """A line of the table is a line of the terminal, however long the message is."""
    pty = pytest.importorskip("pty", reason="there are no terminals like this here")
    store(letter(message="long " * 100))
    ours, theirs = pty.openpty()
    words = ("dead-letters", "list", "--flow", "orders")
    assert forking.run(*words, stdout=theirs, env=os.environ | {"COLUMNS": "150"}).returncode == 0
    os.close(theirs)
    shown = os.read(ours, 65_536).decode().splitlines()
    os.close(ours)

    assert len(shown[1]) == 150
    assert shown[1].endswith("…")


def test_times_of_now_are_found_by_since(store):
    """What the list shows as a time can be given to `--since` as it is."""
    store(letter(1, failed_at=now()))
    time = run("list", "--flow", "orders")[1].splitlines()[1].split()[1].decode()

    assert run("list", "--json", "--since", time)[1] != b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_an_output_that_takes_nothing_is_said(store):
    """A full disk is no traceback."""
    store(*map(letter, range(500)))
    with open("/dev/full", "wb") as full:
        done = forking.run("dead-letters", "list", stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "penstock dead-letters: the output cannot be written: No space left on device\n",
    )
