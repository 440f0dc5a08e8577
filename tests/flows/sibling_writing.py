"""A process that writes values to a file that its siblings write to too, and reports each value that was written."""

import asyncio
import os
import signal
import subprocess
import sys

import forking
from penstock.sinks import FileSink, StdoutSink
from penstock.sinks.siblings import FILE_LOCKS, FILES, Siblings, use_siblings
from waiting import ending

BATCH = 50
"""Values of one write."""


def writing(keeper, number, path, batches, *, dies_at=0):
    """A process that writes so many batches, and is killed in the middle of write number `dies_at`.

    Instead of the path of a file, it may get the descriptor of a pipe.
    """
    descriptors = keeper.attach(number)
    command = [
        "-m",
        __name__,
        descriptors[FILES],
        descriptors[FILE_LOCKS],
        path,
        number,
        batches,
        dies_at,
    ]
    try:
        process = forking.start_python(
            *(str(word) for word in command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(*descriptors.values(), *([path] if isinstance(path, int) else [])),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return ending(process)


async def write(connection, locks, path, number, batches, dies_at):
    use_siblings(Siblings(connection, locks))
    text = "x" * 100
    if path.isdigit():
        sink, text = StdoutSink("csv", fields=["id", "text"], descriptor=int(path)), "x" * 10_000
    else:
        sink = FileSink(path)
    await sink.open()
    print("open", flush=True)
    sys.stdin.readline()
    for batch in range(batches):
        values = [{"id": f"{number}-{batch}-{n}", "text": text} for n in range(BATCH)]
        if batch + 1 == dies_at:
            die_in_write()
        assert await sink.write(values) is None
        os.write(1, "".join(f"{value['id']}\n" for value in values).encode())
    print("done", flush=True)
    sys.stdin.readline()
    await sink.aclose()


def die_in_write():
    """Let the next write of this process to a file end in its middle, with the process."""
    complete = os.write

    def cut(descriptor, data):
        complete(descriptor, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    os.write = cut


if __name__ == "__main__":
    connection, locks, path, *numbers = sys.argv[1:]
    asyncio.run(write(int(connection), int(locks), path, *map(int, numbers)))
