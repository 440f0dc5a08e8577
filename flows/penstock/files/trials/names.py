"""The names of services, outlets and steps that a test may use: those that its flow has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.files.mistakes import Mistakes
from penstock.files.records import Read
from penstock.flow import Flow


class FlowNames:
    """What a flow has names for. One that is not complete may have more, so no name is wrong there."""

    def __init__(self, flow: Flow[Any], complete: bool, mistakes: Mistakes) -> None:
        self.services = sorted({service.name for service in flow.services})
        self.outlets = list(flow.outlets)
        self._places = flow.places
        self._complete = complete
        self._mistakes = mistakes

    @property
    def called(self) -> list[str]:
        """What is called: services and outlets."""
        return [*self.services, *sorted(set(self.outlets) - set(self.services))]

    def check(self, read: Read, field: str, names: Sequence[str], what: str) -> None:
        """The names under a field have to be those of services or outlets."""
        node = read.node.get(field)
        for key, _ in node.value if node is not None and self._complete else ():
            if key.value in names:
                continue
            if names:
                self._mistakes.add(key, f"found {key.shown()}", allowed=names, nearest=key.value)
            else:
                self._mistakes.add(key, f"found {key.shown()}, but the flow has no {what}")

    def check_records(self, read: Read, field: str, fields: Iterable[str]) -> None:
        """Records of failures have fields of their own, and steps that the flow has."""
        node = read.node.get(field)
        for item in node.value if node is not None and node.kind == "list" else ():
            for key, value in item.value if item.kind == "mapping" else ():
                if key.value not in fields:
                    self._mistakes.add(key, f"found {key.shown()}", allowed=fields, nearest=key.value)
                elif key.value == "step" and self._complete and value.value not in self._places:
                    nearest = str(value.value)
                    self._mistakes.add(value, f"found {value.shown()}", allowed=self._places, nearest=nearest)
