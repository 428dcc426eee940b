"""The highest rate that a server holds within a bound, by bisection on a scale of ratios. Pure.

One step at a time, so that several servers' searches can go forth in turns.
"""

from dataclasses import dataclass, field

FIRST_SHARE = 0.7  # of the closed loop's answers a second
GROW, SHRINK = 1.25, 0.75
CLOSE_ENOUGH = 1.08  # between a rate that was held and one that was not
LEAST_PER_S = 2.0


@dataclass(kw_only=True)
class Search:
    """Where a search stands. A rate is given up when two probes of it in a row miss the bound."""

    next_per_s: float
    held_per_s: float = 0.0  # the highest so far
    missed_per_s: float = float("inf")  # the lowest so far
    misses: int = 0  # in a row, of the present rate
    probes: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Tell whether the two ends are close, or there is nothing left below."""
        near = self.held_per_s > 0 and self.missed_per_s / self.held_per_s <= CLOSE_ENOUGH
        return near or self.missed_per_s <= LEAST_PER_S

    def note(self, held: bool) -> None:
        """Take in whether the present rate was held, and choose the next."""
        rate = self.next_per_s
        self.probes.append((rate, held))
        if held:
            self.held_per_s, self.misses = max(self.held_per_s, rate), 0
        else:
            self.misses += 1
            if self.misses < 2:
                return  # once more: something else may have had the machine
            self.missed_per_s, self.misses = min(self.missed_per_s, rate), 0
        self.next_per_s = self._between()

    def _between(self) -> float:
        if self.held_per_s == 0.0:
            return self.missed_per_s * SHRINK
        if self.missed_per_s == float("inf"):
            return self.held_per_s * GROW
        return float((self.held_per_s * self.missed_per_s) ** 0.5)
