"""Find the flow that a command names: in a file, or in a Python module."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

from penstock.errors import FlowDefinitionError
from penstock.flow.flow import Flow
from penstock.flowfile.field_types import importing_from, is_in_python
from penstock.flowfile.load import load
from penstock.flowfile.reader import FORMATS
from penstock.services.service import functions_of


class LoadedFlow(NamedTuple):
    """A flow and the digest of its text."""

    flow: Flow[Any]
    digest: str
    files: tuple[Path, ...]
    """The files that it was loaded from."""


def find_flow(name: str) -> LoadedFlow:
    """Load the flow in a file, or the one that `module:name` is or returns. Raises `FlowDefinitionError`."""
    if is_in_python(name):
        return _find_in_python(name)
    if not Path(name).exists() and Path(name).suffix.lower().removeprefix(".") not in FORMATS:
        raise FlowDefinitionError(
            f"the file {name} does not exist; a flow in Python is named with its module: {Path(name).name}:NAME"
        )
    found = load(name)
    return LoadedFlow(found.flow, found.digest, found.files)


def _find_in_python(name: str) -> LoadedFlow:
    module_name, _, path = name.partition(":")
    with importing_from(Path()):
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            raise FlowDefinitionError(
                f"the module {error.name} does not exist; install it, or start in the folder that contains it"
            ) from error
        except Exception as error:
            raise FlowDefinitionError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise FlowDefinitionError(f"{module_name} has no {path}; name a flow in it: {module_name}:NAME")
        found = getattr(found, part)
    if not isinstance(found, Flow) and callable(found):
        found = _call_factory(name, cast("Callable[[], Any]", found))
    if not isinstance(found, Flow):
        raise FlowDefinitionError(
            f"{name}: expected a flow, or a function that returns one, got {type(found).__name__}"
        )
    files = (Path(module.__file__),) if module.__file__ else ()
    text = b"".join(file.read_bytes() for file in files)
    return LoadedFlow(found, hashlib.sha256(text).hexdigest()[:12], files)


def _call_factory(name: str, make: Callable[[], Any]) -> Any:
    if any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in functions_of(make)):
        raise FlowDefinitionError(f"{name}: expected a plain function, got a coroutine function")
    try:
        with suppress(ValueError):  # some functions in C have no signature
            inspect.signature(make).bind()
    except TypeError as error:
        raise FlowDefinitionError(
            f"{name}: expected a function that can be called without arguments: {error}"
        ) from error
    try:
        return make()
    except FlowDefinitionError:
        raise
    except Exception as error:
        raise FlowDefinitionError(f"{name} failed: {type(error).__name__}: {error}") from error
