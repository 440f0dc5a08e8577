"""A worker process of the Kafka tests: one run of a flow that notes each value it processes in a file.

SIGTERM drains the run. The options are one JSON argument.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from penstock import Flow, Service
from penstock.results import DiscardResults
from penstock.sources import KafkaSource


async def work(
    notes: str,
    source: dict[str, Any],
    window: int = 64,
    seconds: float = 0.0,
    width: int = 64,
    poison: int = -1,
    fails: int = -1,
    hangs: int = -1,
    letters: str | None = None,
) -> None:
    """Note the numbers of the records, each after `seconds`.

    The number `poison` ends the process, `fails` fails, and `hangs` never ends.
    """
    output = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def note(value: dict[str, int]) -> dict[str, int]:
        number = value["n"]
        if number == poison:
            os._exit(9)
        if number == hangs:
            await asyncio.sleep(999)
        if seconds:
            await asyncio.sleep(seconds)
        os.write(output, b"%d\n" % number)
        if number == fails:
            raise ValueError("refused")
        return value

    flow = Flow("kafka").window(window).map_async(Service("note", note, max_in_flight=width, timeout=999))
    if letters is not None:
        flow = flow.dead_letters(letters)
    run = flow.start(KafkaSource(**source), DiscardResults())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, run.drain)
    print("started", flush=True)
    summary = await run.finished
    print(json.dumps({"reason": summary.reason, "failed": summary.failed, "received": summary.received}), flush=True)


if __name__ == "__main__":
    asyncio.run(work(**json.loads(sys.argv[1])))
