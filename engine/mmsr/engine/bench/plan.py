"""What one measurement is: the load, the window and the bounds. Knows nothing of gRPC."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from mmsr.bundle.errors import MmsrError

DEFAULT_CONCURRENCY = "1,4,16,64"
DEFAULT_RATE = "200,500"  # per second
VOID_EXIT_CODE = 3  # measured and reported, but a run does not count
MAX_CONCURRENCY = 4096
MAX_RATE_PER_S = 100_000.0


class BenchError(MmsrError):
    """A measurement cannot be made as asked, or nothing could be measured."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How long a run sends, what of it counts, and how long a request may take.

    Requests of the first `warm_up_s` are sent but not counted.
    """

    warm_up_s: float = 2.0
    duration_s: float = 10.0
    deadline_ms: int = 5000  # of each request
    seed: int = 0

    def __post_init__(self) -> None:
        _require("warm-up-s", self.warm_up_s, 0, 3600)
        _require("duration-s", self.duration_s, 0.1, 24 * 3600)
        _require("deadline-ms", self.deadline_ms, 1, 600_000)
        _require("seed", self.seed, 0, 2**32 - 1)

    @property
    def total_s(self) -> float:
        """Return how long requests are sent, warm-up included."""
        return self.warm_up_s + self.duration_s


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One measurement: a closed loop of `concurrency` callers, or an open loop at `rate_per_s`.

    Exactly one of the two is set.
    """

    concurrency: int | None = None
    rate_per_s: float | None = None
    window: Window

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate_per_s is None):
            raise BenchError("a run is either closed (concurrency) or open (rate), not both")
        _require("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        _require("rate", self.rate_per_s, 0.01, MAX_RATE_PER_S)

    @property
    def name(self) -> str:
        """Return what a person calls this run."""
        if self.rate_per_s is not None:
            return f"open, {self.rate_per_s:g}/s"
        return f"closed, {self.concurrency} at once"

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


def plan_from_json(raw: dict[str, Any]) -> RunPlan:
    """Return the plan that `RunPlan.to_json` was made from."""
    return RunPlan(**{**raw, "window": Window(**raw["window"])})


def make_plans(concurrency: str | None, rate: str | None, window: Window) -> list[RunPlan]:
    """Return one plan for each number in "1,4,16" and "200,500"; both None: the defaults."""
    if concurrency is None and rate is None:
        concurrency, rate = DEFAULT_CONCURRENCY, DEFAULT_RATE
    counts = parse_counts(concurrency, "--concurrency") if concurrency is not None else []
    rates = parse_numbers(rate, "--rate") if rate is not None else []
    return [
        *(RunPlan(concurrency=count, window=window) for count in counts),
        *(RunPlan(rate_per_s=rate_per_s, window=window) for rate_per_s in rates),
    ]


def _require(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise BenchError(f"{name} is {value:g}; expected {low:g} to {high:g}")


def parse_numbers(text: str, option: str) -> list[float]:
    """Parse "1,4,16"; `BenchError` names the option and the part that is no number."""
    numbers = []
    for part in text.split(","):
        try:
            numbers.append(float(part))
        except ValueError:
            raise BenchError(
                f"{option} {text!r}: {part.strip()!r} is no number; expected e.g. 1,4,16"
            ) from None
    return numbers


def parse_counts(text: str, option: str) -> list[int]:
    """Parse "1,4,16" as whole numbers above zero."""
    numbers = parse_numbers(text, option)
    for number in numbers:
        if not (number.is_integer() and number >= 1):
            raise BenchError(f"{option} {text!r}: {number:g} is no whole number above zero")
    return [int(number) for number in numbers]
