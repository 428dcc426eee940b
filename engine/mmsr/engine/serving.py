"""What answers now: one deployment a label, or the reason why there is none.

Everything runs on the event loop's thread, so that a label moves between two requests.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from mmsr.engine.deployment import Deployment
from mmsr.engine.errors import Unavailable, UnknownLabel
from mmsr.engine.split import Split

SHOWN = 40  # characters of a label that is not served


class Serving:
    """The deployments in use; shared by all faces of a server."""

    def __init__(self, default_label: str, split: Split | None = None) -> None:
        self.default_label = default_label
        self.split = split
        self.refused = asyncio.Event()  # for streams: nothing new is answered any more
        self._by_label: dict[str, Deployment] = {}
        self._refusal: Unavailable | None = Unavailable(
            "the server is starting; try again in a moment"
        )

    @property
    def deployments(self) -> Mapping[str, Deployment]:
        """What is in use, by label."""
        return MappingProxyType(self._by_label)

    def use(self, label: str, deployment: Deployment) -> Deployment | None:
        """Answer new requests for `label` with `deployment`; return the one before.

        Requests under way stay with theirs. The first one ends the start of the server.
        """
        if not self._by_label:
            self._refusal = None
        before = self._by_label.get(label)
        self._by_label[label] = deployment
        return before

    def refuse(self, reason: Unavailable) -> None:
        """Answer new requests with `reason`."""
        self._refusal = reason
        self.refused.set()

    def chosen(self, label: str, user_key: str) -> str:
        """Return the label that answers a request: its own, the split's or the default one.

        A split whose label has no bundle takes nobody.
        """
        if label:
            return label
        split = self.split
        if split is not None and split.label in self._by_label and split.takes(user_key):
            return split.label
        return self.default_label

    def deployment(self, label: str = "", user_key: str = "") -> Deployment:
        """Return what answers a request now; a label of its own goes before any split.

        `Unavailable`: starting or stopping. `UnknownLabel`: no such label is served.
        """
        if self._refusal is not None:
            raise self._refusal
        found = self._by_label.get(self.chosen(label, user_key))
        if found is None:
            served = ", ".join(self._by_label)
            raise UnknownLabel(f"label {label[:SHOWN]!r} is not served here; served are {served}")
        return found
