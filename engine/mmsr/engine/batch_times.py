"""Learns how long a batch of a given size takes. Pure arithmetic; owns no clock."""

WEIGHT = 0.2  # of the newest measurement: about ten batches to follow a change


class BatchTimes:
    """Moving averages of the time per batch, one for each power of two of the size."""

    def __init__(self) -> None:
        self._average_s: dict[int, float] = {}

    def record(self, size: int, seconds: float) -> None:
        """Learn from one batch."""
        bucket = 1 << (size - 1).bit_length()
        known_s = self._average_s.get(bucket, seconds)
        self._average_s[bucket] = known_s + WEIGHT * (seconds - known_s)

    def lower(self, other: "BatchTimes") -> None:
        """Take over what the other has measured, where it is less."""
        for bucket, seconds in other._average_s.items():
            self._average_s[bucket] = min(seconds, self._average_s.get(bucket, seconds))

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
