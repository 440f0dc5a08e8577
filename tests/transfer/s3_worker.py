"""Process the objects of a prefix, and note each settled value in a file; the test kills this process."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from penstock import Flow
from penstock.sources import S3Source


async def main(url: str, file: str) -> None:
    """Run the source once."""
    output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def work(value: Any) -> Any:
        await asyncio.sleep(0.002)
        os.write(output, b"%d\n" % value)
        return value

    await Flow("in").window(32).map_async(work, max_in_flight=16).run(S3Source(url))


asyncio.run(main(*sys.argv[1:]))
