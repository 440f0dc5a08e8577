"""`penstock` in shell scripts of tests: `forked_command.py SOCKET WORDS` stands for a process that is forked elsewhere.

It passes its streams, environment and working directory to `forking.listening`, forwards signals, and ends as the
process does. It imports no more than that needs, because it is started often.
"""

import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(path: str, words: list[str]) -> int:
    """Run a command and return its exit code."""
    started: list[int] = []
    early: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if started:
            os.kill(started[0], number)
        else:
            early.append(number)

    for number in SIGNALS:
        signal.signal(number, forward)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        asked.connect(path)
        request = {"words": words, "cwd": os.getcwd(), "env": dict(os.environ)}
        socket.send_fds(asked, [json.dumps(request).encode()], [0, 1, 2])
        started.append(int(asked.recv(64)))
        for number in early:
            os.kill(started[0], number)
        for descriptor in (0, 1, 2):  # a reader of its output waits for the process alone
            os.close(descriptor)
        code = int(asked.recv(64))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    os._exit(main(sys.argv[1], sys.argv[2:]))
