"""Learns how long a batch of a given size takes. Pure arithmetic; owns no clock."""

WEIGHT = 0.2  # of the newest measurement: about ten batches to follow a change
LEAST_S = 1e-9  # a clock that stood still


class BatchTimes:
    """Moving averages of the time per batch, one for each power of two of the size."""

    def __init__(self) -> None:
        self._average_s: dict[int, float] = {}
        self._shape_s: dict[int, float] = {}  # the same as it was when it was settled

    def record(self, size: int, seconds: float) -> None:
        """Learn from one batch."""
        bucket = 1 << (size - 1).bit_length()
        known_s = self._average_s.get(bucket, seconds)
        self._average_s[bucket] = known_s + WEIGHT * (seconds - known_s)

    def lower(self, other: "BatchTimes") -> None:
        """Take over what the other has measured, where it is less."""
        for bucket, seconds in other._average_s.items():
            self._average_s[bucket] = min(seconds, self._average_s.get(bucket, seconds))

    def settle(self) -> None:
        """Let `efficient` go by what has been measured until now: the same requests at every size.

        What is learnt later is of whatever requests have come at each size.
        """
        self._shape_s = dict(self._average_s)

    def efficient(self, most: int, share: float, short_s: float = 0.0) -> int:
        """Return the smallest batch at whose size requests go through nearly as fast as at any.

        Of the sizes that were settled, at most `most`: the first with `share` of the best rate in
        requests a second, or the largest that takes at most `short_s`, whichever is larger. `most`
        if nothing was settled.
        """
        known = {size: max(s, LEAST_S) for size, s in self._shape_s.items() if size <= most}
        enough = share * max((size / s for size, s in known.items()), default=0.0)
        fast = min((size for size, s in known.items() if size / s >= enough), default=most)
        return max([fast, *(size for size, s in known.items() if s <= short_s)])

    def predict(self, size: int) -> float:
        """Return the seconds that a batch takes; 0 before the first measurement.

        A batch costs no more than a larger one, and no more than as many small ones as make it
        up. So one stalled batch of some size cannot raise the prediction for long: the other
        sizes bound it, and keep being measured.
        """
        return min(
            (s if size <= bucket else s * size / bucket for bucket, s in self._average_s.items()),
            default=0.0,
        )
