"""What a soak has measured, and what is wrong with it. Pure: numbers in, sentences out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from support.trends import Slope, growth, rises, slope

MOST_GROWTH = 0.03  # of the resident memory, in the long form
FAILED_RATIO = 1e6  # stands for that of a round whose p99 falls among the failed


@dataclass(frozen=True, kw_only=True)
class Round:
    """A minute of the soak (less in the short form); latencies from the intended sending times."""

    seconds: float
    capacity_per_s: float  # closed loop, at the beginning of the round
    echo_per_s: float  # the same of the bare echo
    rate_per_s: float  # of the open loop that follows
    requests: int  # all that were sent to the server, those of the closed loop too
    failed: dict[str, int]  # by status
    latency_ms: dict[str, float]  # p50, p90, p99, of the open loop
    echo_ms: dict[str, float]  # of the echo, asked beside it
    lag_ms: float  # p99 of the generator's own lateness
    cpu_us: float  # of the server's process, a request
    memory_mib: float  # resident; the lowest of the round's readings: no reload is under way
    descriptors: int  # of files and sockets, likewise
    threads: int
    children: int
    load_average: float

    @property
    def ratio(self) -> float:
        """Return p99 relative to the echo's."""
        return self.latency_ms["p99"] / self.echo_ms["p99"]


@dataclass(frozen=True, kw_only=True)
class Soak:
    """All that a soak has measured."""

    rounds: Sequence[Round]
    settled: int  # rounds after which memory is to stand still
    checked: int  # replies, against brute force
    wrong: Sequence[str]  # of them, in words
    reloads: int  # bundles that took over
    asked_reloads: int
    writes: int  # acknowledged
    failed_writes: Sequence[str]
    beside: int  # calls of the other methods
    failed_beside: Sequence[str]
    bundles: Sequence[str]  # that answered
    log_problems: Sequence[str] = ()  # of the server: errors, and how it ended
    said: Mapping[str, str] = field(default_factory=dict)  # of failed requests, the first by status

    @property
    def requests(self) -> int:
        """Return how many were sent by the generator."""
        return sum(found.requests for found in self.rounds)

    @property
    def failed(self) -> dict[str, int]:
        """Return the generator's failures by status."""
        whole: dict[str, int] = {}
        for found in self.rounds:
            for status, count in found.failed.items():
                whole[status] = whole.get(status, 0) + count
        return whole

    def series(self, of: Callable[[Round], float], after: int = 0) -> list[float]:
        """Return one number of each round from `after` on."""
        return [of(found) for found in self.rounds[after:]]


@dataclass(frozen=True, kw_only=True)
class Trends:
    """How the rounds go on; shares of the first value, over the whole soak."""

    p99: Slope  # of the logarithm of p99 relative to the echo, a round
    capacity: Slope  # of the logarithm of the closed loop's rate relative to the echo's
    memory: float  # growth after the settled rounds
    descriptors: float  # by how many the last third lies above the first
    threads: float
    children: float
    steps: int = field(default=0)

    def over_all(self, of: Slope) -> tuple[float, float, float]:
        """Return a slope of logarithms and its interval as shares over the whole soak."""

        def share(per_step: float) -> float:
            exponent = per_step * self.steps
            return math.inf if exponent > 100 else math.expm1(exponent)

        return share(of.per_step), share(of.low), share(of.high)


def trends(soak: Soak) -> Trends:
    """Return how the rounds go on."""
    after = soak.settled
    return Trends(
        p99=slope(soak.series(lambda found: math.log(min(FAILED_RATIO, found.ratio)))),
        capacity=slope(soak.series(lambda found: math.log(_relative(found)))),
        memory=growth(soak.series(lambda found: found.memory_mib, after)),
        descriptors=rises(soak.series(lambda found: found.descriptors, after)),
        threads=rises(soak.series(lambda found: found.threads, after)),
        children=rises(soak.series(lambda found: found.children, after)),
        steps=len(soak.rounds) - 1,
    )


def _relative(found: Round) -> float:
    return found.capacity_per_s / found.echo_per_s


def problems(soak: Soak, *, most_growth: float = MOST_GROWTH) -> list[str]:
    """Return what does not depend on how busy the machine is: answers, failures, leaks."""
    found = [
        f"{count} requests ended with {status} {soak.said.get(status, '')}".rstrip()
        for status, count in soak.failed.items()
    ]
    found += [f"wrong answer: {what}" for what in soak.wrong]
    found += [f"a write failed: {what}" for what in soak.failed_writes]
    found += [f"beside the load: {what}" for what in soak.failed_beside]
    found += list(soak.log_problems)
    if soak.reloads < soak.asked_reloads:
        found.append(f"{soak.reloads} of {soak.asked_reloads} bundles took over")
    seen = trends(soak)
    if seen.memory > most_growth:
        found.append(
            f"resident memory grew by {seen.memory:.1%} after the first {soak.settled} rounds, "
            f"at most {most_growth:.0%} is allowed"
        )
    for what, rise in (
        ("file descriptors", seen.descriptors),
        ("threads", seen.threads),
        ("child processes", seen.children),
    ):
        if rise > 0:
            found.append(f"{what}: {rise:g} more at the end than at the beginning")
    return found


def timing_problems(soak: Soak) -> list[str]:
    """Return which timings have a trend; for the long form alone."""
    seen, found = trends(soak), []
    if seen.p99.is_a_trend and seen.p99.per_step > 0:
        found.append(f"p99 relative to the echo rises: {_interval(seen, seen.p99)}")
    if seen.capacity.is_a_trend and seen.capacity.per_step < 0:
        found.append(f"capacity relative to the echo falls: {_interval(seen, seen.capacity)}")
    return found


def _interval(seen: Trends, of: Slope) -> str:
    share, low, high = seen.over_all(of)
    return f"{share:+.0%} over the soak (95 % interval {low:+.0%} to {high:+.0%})"
