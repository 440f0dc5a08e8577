"""Files of services and templates that flow files use: told from flow files, and looked at by themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from penstock.errors import FlowFileError
from penstock.flowfile.load import loads
from penstock.flowfile.models import SHARED
from penstock.flowfile.read_document import read_document
from penstock.flowfile.reader import text_of


def is_shared(path: Path) -> bool:
    """Whether a file has nothing but services and templates in it."""
    try:
        names = [name for name, _ in read_document(text_of(path), str(path)).items()]
    except FlowFileError:
        return False
    return bool(names) and set(names) <= SHARED.keys()


def check_shared(path: Path, *, environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """How much of what a shared file has. Raises `FlowFileError` with every mistake in it."""
    user = json.dumps({"flow": "user", "include": [path.name]})
    loads(user, path.with_name("user.json"), environment=environment)
    node = read_document(text_of(path), str(path))
    return {name: sum(1 for _ in part.items()) for name, part in node.items()}
