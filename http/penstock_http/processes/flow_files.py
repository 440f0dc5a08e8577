"""The texts of the flow files that all processes serve, which the parent keeps for processes that start.

A process that replaces one that has died then serves the same flows as the others, even if the files have changed.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct, msgpack

from penstock_http.processes.resources import ParentProcess

MISSING = "flow-files-missing"
"""The topic of the parent that returns which of some digests of texts it does not have."""

KEEP = "flow-files-keep"
"""The topic of the parent that keeps a text."""

TEXT = "flow-files-text"
"""The topic of the parent that returns the text with a digest."""


class FileVersion(Struct, frozen=True):
    """A flow file as it is served."""

    flow: str
    texts: dict[str, str]
    """The digests of its text and of those of the files that it includes, by path."""


class FlowFiles(Struct, frozen=True):
    """The flow files of a process, by path."""

    files: dict[str, FileVersion]
    stamps: dict[str, tuple[int, int, int] | None]
    """Modification time, size and inode of each file that was read, or of those that could not be loaded."""


def text_digest(text: bytes) -> str:
    """Return the digest of a text."""
    return blake2b(text, digest_size=16).hexdigest()


class KeptTexts:
    """The side of the parent. The texts are at most those of two versions of all files."""

    def __init__(self, parent: ParentProcess) -> None:
        self.files: FlowFiles | None = None
        """What all processes serve; None until one of them does."""
        self._texts: dict[str, bytes] = {}
        parent.on(MISSING, self._missing)
        parent.on(KEEP, self._keep)
        parent.on(TEXT, self._text)

    def accept(self, files: FlowFiles) -> None:
        """Note that all processes serve these files, or begin to. Their texts are here."""
        self.files = files
        used = {digest for version in files.files.values() for digest in version.texts.values()}
        self._texts = {digest: text for digest, text in self._texts.items() if digest in used}

    async def _missing(self, _number: int, payload: bytes) -> bytes:
        digests = msgpack.decode(payload, type=list[str])
        return msgpack.encode([digest for digest in digests if digest not in self._texts])

    async def _keep(self, _number: int, payload: bytes) -> bytes:
        self._texts[text_digest(payload)] = payload
        return b""

    async def _text(self, _number: int, payload: bytes) -> bytes:
        return self._texts[payload.decode()]
