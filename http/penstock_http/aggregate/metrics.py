"""Merge the metrics of several processes into one text. Each sample gets the label `process`.

The texts are those of prometheus_client, in the text format of Prometheus or in OpenMetrics. They are split and joined
as bytes: parsing them would take longer than the processes took to write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_END = b"# EOF\n"
"""The last line in OpenMetrics."""

_HEAD = re.compile(rb"(?P<name>\S+)[^\n]*(?:\n# (?:TYPE|UNIT) [^\n]*)*\n?")
"""The lines about a family of series after `# HELP `: its name and help, its type, its unit."""

_LABELLED = re.compile(rb"^([a-zA-Z_:][\w:]*)\{", re.MULTILINE)
_BARE = re.compile(rb"^([a-zA-Z_:][\w:]*) ", re.MULTILINE)


def merge_metrics(texts: Mapping[str, bytes], common: bytes = b"") -> bytes:
    """Return one text with the samples of all processes, each family once. `texts` is by the value of the label.

    `common` is the text of other families, which get no label.
    """
    heads: dict[bytes, bytes] = {}
    samples: dict[bytes, list[bytes]] = {}
    for process, text in texts.items():
        for name, head, lines in _families(text.removesuffix(_END)):
            heads.setdefault(name, head)
            samples.setdefault(name, []).append(_with_label(process.encode(), lines))
    merged = b"".join(b"# HELP " + head + b"".join(samples[name]) for name, head in heads.items())
    end = _END if any(text.endswith(_END) for text in (common, *texts.values())) else b""
    return common.removesuffix(_END) + merged + end


def _families(text: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the name of each family, the lines about it without `# HELP `, and its samples."""
    # Labels and help texts hold no line breaks: they are escaped.
    for part in (b"\n" + text.removesuffix(b"\n")).split(b"\n# HELP ")[1:]:
        complete = part + b"\n"
        head = _HEAD.match(complete)
        assert head is not None
        yield head["name"], head[0], complete[head.end() :]


def _with_label(process: bytes, lines: bytes) -> bytes:
    """Return samples with the label `process`."""
    labelled = _LABELLED.sub(rb'\g<1>{process="%b",' % process, lines)
    return _BARE.sub(rb'\g<1>{process="%b"} ' % process, labelled)
