"""Merge the metrics of several processes into one text.

Each process writes its own text, with the label `process`. The texts are those of prometheus_client, in the text format
of Prometheus or in OpenMetrics. They are split and joined as bytes: parsing them would hold the event loop for longer
than it took the processes to write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_HELP = b"# HELP "
"""The beginning of a family of series. Line breaks in help texts and labels are escaped."""

_END = b"# EOF\n"
"""The last line in OpenMetrics."""


class WithProcess(Collector):
    """The series of a registry, with the label `process`."""

    def __init__(self, registry: Collector, process: str) -> None:
        self._registry = registry
        self._label = {"process": process}

    def collect(self) -> Iterator[Metric]:
        """Yield each family with the label."""
        for metric in self._registry.collect():
            metric.samples = [sample._replace(labels=sample.labels | self._label) for sample in metric.samples]
            yield metric


def merge_metrics(texts: Iterable[bytes]) -> bytes:
    """Return one text with the samples of all texts. Each family is described once, with the help of the first text."""
    heads: dict[bytes, bytes] = {}
    samples: dict[bytes, list[bytes]] = {}
    end = b""
    for text in texts:
        if text.endswith(_END):
            end = _END
        for family in _families(text.removesuffix(_END)):
            name = family[: family.index(b" ")]
            size = _size_of_head(family)
            heads.setdefault(name, family[:size])
            samples.setdefault(name, []).append(family[size:])
    return b"".join(_HELP + head + b"".join(samples[name]) for name, head in heads.items()) + end


def _families(text: bytes) -> Iterator[bytes]:
    """Yield the lines of each family, without `# HELP ` before its name."""
    for family in (b"\n" + text.removesuffix(b"\n")).split(b"\n" + _HELP)[1:]:
        yield family + b"\n"


def _size_of_head(family: bytes) -> int:
    """Return the length of the lines before the samples: the name and the help, the type, the unit."""
    end = family.index(b"\n") + 1
    while family.startswith((b"# TYPE ", b"# UNIT "), end):
        end = family.index(b"\n", end) + 1
    return end
