"""The messages of deployments to all processes of a service."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from penstock_http.processes.flow_files import FlowFiles

JOIN = "deployments-join"
"""The topic of the parent for a process that starts: returns `Joined`."""

UPLOAD = "deployments-upload"
"""The topic of the parent that returns the `Upload` of a flow."""

LOADED = "deployments-loaded"
"""The topic of the parent for what a process has loaded at its start: takes `Loaded`.

Returns nothing, or a text if other processes have read other flow files.
"""

EVERYWHERE = "deployments"
"""The topic of the parent that deploys in all processes: takes a `Command`, returns a `Reply`."""

HERE = "deployment"
"""The topic of a process that deploys in this process: takes a `Command`, returns a `Reply`."""

REJECTED = "deployment-rejected"
"""The topic of a process that records a reload in which a new process could not serve the flow files."""

EVERYWHERE_SECONDS = 600.0
"""Timeout of a deployment in all processes, with the wait for others and for processes that start."""

UPLOADED = "PUT"
"""The source of an uploaded flow."""


class ActiveRevision(Struct, frozen=True):
    """The active revision of a flow."""

    number: int
    digest: str
    source: str
    """The file or Python name of the flow, or `PUT` if it was uploaded."""


class Upload(Struct, frozen=True):
    """An uploaded flow."""

    text: str
    format: str
    replaces_file: bool
    """Whether a flow of a file or of Python has the same name. SIGHUP loads that one again."""


class Command(Struct, frozen=True, kw_only=True):
    """What to deploy: an uploaded flow (`put`), nothing any more (`delete`), or all files again (`reload`)."""

    kind: Literal["put", "delete", "reload"]
    name: str = ""
    text: str = ""
    format: str = ""
    dry_run: bool = False
    cause: str = ""
    version: int = 0
    """The number of this deployment; in a question of a process, that of the last one that it made."""
    known: dict[str, ActiveRevision] = {}
    """The active revisions: a flow with the same digest gets the same number in all processes."""
    removed: int = 0
    """The highest number of the revisions of deleted flows."""


class Reply(Struct, frozen=True, kw_only=True):
    """What a deployment did in a process."""

    accepted: bool
    revisions: dict[str, ActiveRevision] = {}
    """All active revisions of the process."""
    files: FlowFiles | None = None
    """The flow files that it serves, if they were loaded again."""
    results: bytes = b""
    """The results of the flows, for the process that asked."""
    rejection: bytes = b""
    """Why the request was rejected, if it was, for the process that asked."""
    leaves: bool = False
    """Whether nothing was deployed because the process shuts down."""
    version: int | None = None
    """The last deployment, if nothing was reloaded because the process that asked had not made it."""


class Joined(Struct, frozen=True, kw_only=True):
    """What a process needs in order to serve what the others serve."""

    version: int
    known: dict[str, ActiveRevision]
    removed: int
    uploads: list[str]
    files: FlowFiles | None
    """The flow files that they serve, whose texts the parent keeps. If None, the files are to be read."""


class Loaded(Struct, frozen=True):
    """What a process serves when it has started."""

    revisions: dict[str, ActiveRevision]
    files: FlowFiles | None
    """The flow files, if it has read them; None if it had their texts from the parent."""
