"""The characters that no text of a flow file may hold, though JSON has ways to write some of them down."""

from __future__ import annotations

import re

from penstock.files.mistakes import Mistakes
from penstock.files.node import Node

_REFUSED = re.compile("[\0\ud800-\udfff]")


def check_characters(node: Node, mistakes: Mistakes) -> Node:
    """The node, if it is no text with half a surrogate pair or U+0000 in it; a mistake and another text otherwise.

    No name, path or address holds them: they cannot be written to a terminal, opened, compiled or sent.
    """
    if node.kind != "text" or (found := _REFUSED.search(node.value)) is None:
        return node
    mistakes.add(node, f"the character U+{ord(found[0]):04X} may not stand in a flow file", hint="take it out")
    return Node("text", _REFUSED.sub("\ufffd", node.value), node.place)
