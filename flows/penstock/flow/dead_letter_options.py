"""Check that the dead-letter store of a flow can do what the options of the flow require."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from penstock.backends.server_url import hide_password
from penstock.deadletters.stores import is_log_url, normalize_url, validate_store_url
from penstock.errors import FlowDefinitionError

_USE_A_DATABASE = "use a database: sqlite:///FILE or postgresql://HOST/DATABASE"


def check_copies(store: object, copies: Sequence[str]) -> None:
    """Raise `FlowDefinitionError` for copies that a store cannot have."""
    if not copies:
        return
    if not isinstance(store, str):
        raise FlowDefinitionError("copy: the store is an object; pass its URL to have copies")
    if is_log_url(store):
        raise FlowDefinitionError(
            f"copy: the store {hide_password(store)} is a log, which does not record which letters were copied; "
            f"{_USE_A_DATABASE} as the store, and the log as a copy"
        )
    seen = {normalize_url(store)}
    for url in copies:
        if not isinstance(cast(object, url), str):
            raise FlowDefinitionError(f"copy: expected the URL of a store, got {url!r}")
        validate_store_url(url)
        if normalize_url(url) in seen:
            raise FlowDefinitionError(f"copy: {hide_password(url)} is named twice; remove one")
        seen.add(normalize_url(url))


def check_keep(store: object) -> None:
    """Raise `FlowDefinitionError` if the letters of a store cannot be deleted."""
    if (log := _log(store)) is not None:
        raise FlowDefinitionError(
            f"keep: {log} is a log, from which no single letters can be deleted; set the retention of the log itself, "
            f"or {_USE_A_DATABASE}"
        )


def check_redrive(store: object) -> None:
    """Raise `FlowDefinitionError` if the letters of a store cannot be redriven automatically."""
    if (log := _log(store)) is not None:
        raise FlowDefinitionError(
            f"redrive: {log} is a log, in which the letters of one outage cannot be selected; redrive it with "
            f"`penstock dead-letters redrive`, or {_USE_A_DATABASE}"
        )


def _log(store: object) -> str | None:
    """Return the name of a store that is a log; None for other stores."""
    if isinstance(store, str):
        return hide_password(store) if is_log_url(store) else None
    return type(store).__name__ if getattr(store, "editable", None) is False else None
