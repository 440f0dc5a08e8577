"""A client of many small requests, one after another on kept connections: 10 orders by GET and by POST in turn.

Prints one JSON object: the seconds of every GET and of every POST.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

import orders

ORDERS = 10


def ask(connection: http.client.HTTPConnection, path: str, method: str) -> float:
    """Seconds of one request, whose answer must be whole."""
    start = time.perf_counter()
    if method == "GET":
        connection.request("GET", f"{path}?count={ORDERS}")
    else:
        headers = {"Content-Type": "application/x-ndjson"}
        connection.request("POST", path, orders.body(ORDERS, failing=False), headers)
    answer = connection.getresponse()
    lines = answer.read().splitlines()
    seconds = time.perf_counter() - start
    if answer.status != 200 or len(lines) != ORDERS + 1 or b'"completed"' not in lines[-1]:
        raise ConnectionError(f"{method} answered {answer.status}: {lines[-1:]}")
    return seconds


def work(url: str, until: float, most: int, found: dict[str, list[float]], errors: list[Exception]) -> None:
    """Ask in turn, for a time."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        for _ in range(most):
            for method, times in found.items():
                times.append(ask(connection, parts.path, method))
            if time.perf_counter() > until:
                return
    except (OSError, http.client.HTTPException) as error:
        errors.append(error)
    finally:
        connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--most", type=int, default=1000, help="rounds at most, of each connection")
    parser.add_argument("--connections", type=int, default=1)
    given = parser.parse_args()
    found: dict[str, list[float]] = {"GET": [], "POST": []}
    errors: list[Exception] = []
    until = time.perf_counter() + given.seconds
    job = (given.url, until, given.most, found, errors)
    threads = [threading.Thread(target=work, args=job) for _ in range(given.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        print(errors[0], file=sys.stderr)
        return 1
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
