"""The channel between the parent and a process has limits, so that neither waits for the other, or fills its memory."""

from __future__ import annotations

import asyncio
import socket

import pytest

from penstock_http.processes.channel import MAX_BUFFERED, MAX_OPEN, Channel
from penstock_http.processes.messages import MAX_FRAME
from penstock_http.processes.peers import NoAnswer
from waiting import HANG_SECONDS, until_async


async def echo(topic: str, payload: bytes) -> bytes | None:
    """Answer with the payload, `large` with more than a message may have, `never` not at all, `failed` with nothing."""
    if topic == "never":
        await asyncio.Event().wait()
    if topic == "large":
        return bytes(MAX_FRAME)
    return None if topic == "failed" else payload


async def pair() -> tuple[Channel, Channel]:
    """Two ends of a channel."""
    ends = Channel(echo), Channel(echo)
    for end, sock in zip(ends, socket.socketpair(), strict=True):
        sock.setblocking(False)
        await end.open(sock)
    return ends


async def test_both_sides_ask_and_answer() -> None:
    """At the same time, and large messages too."""
    ends = await pair()
    large = b"x" * (MAX_FRAME - 100)
    answers = await asyncio.gather(*(end.call("echo", payload, None) for end in ends for payload in (b"1", large, b"")))
    assert answers == [b"1", large, b""] * 2
    for end in ends:
        end.close()


async def test_a_question_without_an_answer_fails() -> None:
    """After its timeout, if the handler failed, if a message is too large, and when the other side is gone."""
    asking, other = await pair()
    with pytest.raises(NoAnswer, match=r"not answered within 0\.01 s"):
        await asking.call("never", timeout=0.01)
    with pytest.raises(NoAnswer, match="could not answer"):
        await asking.call("failed", timeout=None)
    with pytest.raises(NoAnswer, match="could not answer"):
        await asking.call("large", timeout=HANG_SECONDS)
    with pytest.raises(NoAnswer, match=f"the maximum is {MAX_FRAME}"):
        await asking.call("echo", bytes(MAX_FRAME), None)
    waiting = asyncio.ensure_future(asking.call("never", timeout=None))
    await asyncio.sleep(0)
    other.close()
    with pytest.raises(NoAnswer, match="gone"):
        await waiting
    await asking.closed.wait()
    with pytest.raises(NoAnswer, match="gone"):
        await asking.call("echo")


async def test_a_side_that_reads_nothing_does_not_fill_the_memory_of_the_other_one() -> None:
    """Beyond a limit of bytes or of questions, nothing more is sent to a frozen process."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = Channel(echo)
    await channel.open(ours)
    payload = bytes(MAX_FRAME // 2)
    sent = [asyncio.ensure_future(channel.call("echo", payload, None)) for _ in range(20)]
    await until_async(lambda: any(each.done() for each in sent))
    refused = [each for each in sent if each.done()]
    assert all("reads nothing" in str(each.exception()) for each in refused)
    assert (len(sent) - len(refused)) * len(payload) <= MAX_BUFFERED + 2 * len(payload)
    for each in sent:
        each.cancel()
    channel.close()
    theirs.close()


async def test_the_number_of_open_questions_is_limited() -> None:
    """To a process that reads, but does not answer."""
    asking, other = await pair()
    sent = [asyncio.ensure_future(asking.call("never", timeout=None)) for _ in range(MAX_OPEN)]
    await asyncio.sleep(0)
    with pytest.raises(NoAnswer, match=f"{MAX_OPEN} questions"):
        await asking.call("echo")
    for each in sent:
        each.cancel()
    await asyncio.gather(*sent, return_exceptions=True)
    assert await asking.call("echo", b"again", None) == b"again"
    asking.close()
    other.close()
