"""Several meters as one. Only those that are wanted cost anything."""

from collections.abc import Sequence

from google.protobuf.message import Message

from mmsr.engine.rpc import Call, Meter, Outcome


class Meters:
    """Tells each of them in turn."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)
        self.reads_metadata = any(meter.reads_metadata for meter in meters)

    def began(self, method: str) -> None:
        """Tell of a call that has come."""
        for meter in self._meters:
            meter.began(method)

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        """Tell of one response of a stream."""
        for meter in self._meters:
            meter.streamed(call, request, response)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Tell of a call that has ended."""
        for meter in self._meters:
            meter.ended(call, outcome)
