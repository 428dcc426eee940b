"""What answers now: one deployment a label, or the reason why there is none.

Everything runs on the event loop's thread, so that a label moves between two requests.
"""

import asyncio
from collections.abc import Callable, Mapping
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
        # What the split's label answers with while it is on trial: another bundle than the default
        # label's, and none that was withdrawn.
        self.candidate: Deployment | None = None
        self.listeners: list[Callable[[], None]] = []  # told when candidate or default change
        self._withdrawn: set[str] = set()  # versions
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
        self._decide()
        return before

    def withdraw(self, version: str) -> None:
        """End the trial of a bundle, or say that its label names it without a trial."""
        self._withdrawn.add(version)
        self._decide()

    def allow(self, label: str, version: str) -> None:
        """Say that somebody wants a bundle under a label, withdrawn before or not."""
        if self.split is not None and label == self.split.label and version in self._withdrawn:
            self._withdrawn.remove(version)
            self._decide()

    def is_withdrawn(self, version: str) -> bool:
        """Tell whether a bundle gets no trial."""
        return version in self._withdrawn

    def _decide(self) -> None:
        """Find out whether there is a candidate, and tell the listeners."""
        if self.split is None:
            return
        candidate = self._by_label.get(self.split.label)
        if candidate is self._by_label.get(self.default_label):
            candidate = None
        if candidate is not None and candidate.model.version in self._withdrawn:
            candidate = None
        self.candidate = candidate
        for listener in self.listeners:
            listener()

    def refuse(self, reason: Unavailable) -> None:
        """Answer new requests with `reason`."""
        self._refusal = reason
        self.refused.set()

    def chosen(self, label: str, user_key: str) -> str:
        """Return the label that answers a request: its own, the split's or the default one.

        A split without a candidate takes nobody.
        """
        if label:
            return label
        if self.candidate is not None:
            split = self.split
            assert split is not None
            if split.takes(user_key):
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
