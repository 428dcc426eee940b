"""What one measurement is: the load, the window and the bounds. Knows nothing of gRPC."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmsr.bundle.errors import MmsrError
from mmsr.engine.bench.arrivals import ARRIVALS, CHOICES, IN_ORDER, POISSON
from mmsr.engine.bench.schedule import Segment, ramp, steps, total_s

DEFAULT_CONCURRENCY = "1,4,16,64"
DEFAULT_RATE = "200,500"  # per second
VOID_EXIT_CODE = 3  # measured and reported, but a run does not count
REGRESSION_EXIT_CODE = 4  # measured, and worse than it may be
MAX_CONCURRENCY = 4096
MAX_RATE_PER_S = 100_000.0
MAX_GENERATORS = 64


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
class Traffic:
    """How requests come, and what is asked of their answers."""

    arrivals: str = POISSON  # of an open loop
    choice: str = IN_ORDER  # of the histories
    generators: int = 1  # processes that send
    slo_ms: float = 50.0  # an answer within this time is a good one
    headline: bool = False  # percentiles only from MLPerf's sample counts on

    def __post_init__(self) -> None:
        _one_of("arrivals", self.arrivals, ARRIVALS)
        _one_of("choice", self.choice, CHOICES)
        _require("generators", self.generators, 1, MAX_GENERATORS)
        _require("slo-ms", self.slo_ms, 0.01, 600_000)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One measurement: a closed loop of `concurrency` callers, or an open loop.

    The open loop goes at `rate_per_s`, or by a `schedule` as long as the window's duration.
    Exactly one of the three is set.
    """

    concurrency: int | None = None
    rate_per_s: float | None = None
    schedule: tuple[Segment, ...] = ()
    window: Window
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        loads = (self.concurrency is not None, self.rate_per_s is not None, bool(self.schedule))
        if sum(loads) != 1:
            raise BenchError(
                "a run is either closed (concurrency) or open (rate or schedule), not both"
            )
        _require("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        _require("rate", self.rate_per_s, 0.01, MAX_RATE_PER_S)
        for segment in self.schedule:
            for rate_per_s in (segment.from_per_s, segment.to_per_s):
                _require("rate", rate_per_s, 0.01, MAX_RATE_PER_S)
        if self.schedule and not math.isclose(total_s(self.schedule), self.window.duration_s):
            raise BenchError("a schedule must be as long as the window's duration")

    @property
    def is_open(self) -> bool:
        """Tell whether requests are sent whatever the server does."""
        return self.concurrency is None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Return the whole open loop, warm-up first; it goes at the first rate."""
        rate = self.rate_per_s
        if rate is not None:
            return steps([rate], self.window.total_s)
        warm_up_s = self.window.warm_up_s
        first = self.schedule[0].from_per_s
        return (*(steps([first], warm_up_s) if warm_up_s else ()), *self.schedule)

    @property
    def load(self) -> str:
        """Return how much is sent, as short as a table wants it."""
        if self.concurrency is not None:
            return str(self.concurrency)
        if self.rate_per_s is not None:
            return f"{self.rate_per_s:g}/s"
        first, last = self.schedule[0], self.schedule[-1]
        if len(self.schedule) == 1:
            return f"{first.from_per_s:g}–{last.to_per_s:g}/s"
        rates = [segment.from_per_s for segment in self.schedule]
        return f"{min(rates):g}–{max(rates):g}/s x{len(rates)}"

    @property
    def name(self) -> str:
        """Return what a person calls this run."""
        return f"open, {self.load}" if self.is_open else f"closed, {self.load} at once"

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


def plan_from_json(raw: dict[str, Any]) -> RunPlan:
    """Return the plan that `RunPlan.to_json` was made from."""
    nested = {
        "window": Window(**raw["window"]),
        "traffic": Traffic(**raw["traffic"]),
        "schedule": tuple(Segment(**segment) for segment in raw["schedule"]),
    }
    return RunPlan(**{**raw, **nested})


@dataclass(frozen=True, kw_only=True)
class Loads:
    """The loads of a command as a user types them; all None: the defaults."""

    concurrency: str | None = None  # "1,4,16"
    rate: str | None = None  # "200,500"
    ramp: str | None = None  # "100:1000"
    step: str | None = None  # "100,400,100"


def make_plans(loads: Loads, window: Window, traffic: Traffic | None = None) -> list[RunPlan]:
    """Return one plan for each number of `concurrency` and `rate`, and one a schedule."""
    if loads == Loads():
        loads = Loads(concurrency=DEFAULT_CONCURRENCY, rate=DEFAULT_RATE)
    traffic = traffic or Traffic()
    counts = _or_none(parse_counts, loads.concurrency, "--concurrency")
    rates = _or_none(parse_numbers, loads.rate, "--rate")
    schedules = []
    if loads.ramp is not None:
        schedules.append(ramp(*parse_ramp(loads.ramp), window.duration_s))
    if loads.step is not None:
        schedules.append(steps(parse_numbers(loads.step, "--step"), window.duration_s))
    return [
        *(RunPlan(concurrency=count, window=window, traffic=traffic) for count in counts),
        *(RunPlan(rate_per_s=rate, window=window, traffic=traffic) for rate in rates),
        *(RunPlan(schedule=schedule, window=window, traffic=traffic) for schedule in schedules),
    ]


def _or_none(parse: Any, text: str | None, option: str) -> Sequence[Any]:
    return [] if text is None else parse(text, option)


def _require(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise BenchError(f"{name} is {value:g}; expected {low:g} to {high:g}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BenchError(f"{name} is {value!r}; expected one of {', '.join(known)}")


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


def parse_ramp(text: str) -> tuple[float, float]:
    """Parse "100:1000", requests per second at the beginning and at the end."""
    first, _, last = text.partition(":")
    try:
        return float(first), float(last)
    except ValueError:
        raise BenchError(f"--ramp {text!r}; expected FROM:TO per second, e.g. 100:1000") from None
