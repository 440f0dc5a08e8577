"""Divide the limit of a service between the processes that call it. Pure: no I/O, no clock.

Each process knows what the others need and hold. A share shrinks at once and grows only by what no other process
holds, so all of them together never have more calls in flight than the limit, whatever the order in which they act.
"""

from __future__ import annotations

from collections.abc import Sequence


def divide(total: int, demands: Sequence[int]) -> list[int]:
    """Divide a limit by demand (max-min fair, at least 1 for each), and the part without demand equally.

    `demands` are the calls that each process has or waits for. A process without any keeps 1, so that its next call
    does not wait. With more processes than `total`, each has 1.

    >>> divide(64, [500, 0])
    [63, 1]
    >>> divide(64, [10, 500, 500])
    [10, 27, 27]
    >>> divide(64, [10, 0])
    [37, 27]
    """
    shares = [0] * len(demands)
    spare = max(total, len(demands))
    for filled, index in enumerate(sorted(range(len(demands)), key=demands.__getitem__)):
        shares[index] = min(max(1, demands[index]), spare // (len(demands) - filled))
        spare -= shares[index]
    for filled, index in enumerate(range(len(demands))):
        extra = -(-spare // (len(demands) - filled))
        shares[index] += extra
        spare -= extra
    return shares


def next_share(total: int, demands: Sequence[int], held: Sequence[int], index: int) -> int:
    """Return how many calls process `index` may have in flight from now on.

    `held` is what each process may have in flight: its share, or its calls if they are more because it has shrunk.
    """
    free = max(total, len(demands)) - (sum(held) - held[index])
    return max(0, min(divide(total, demands)[index], free))
