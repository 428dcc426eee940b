"""What `mmsr-train compare` found, as a file: the format that tables and reports are made from.

COMPARISON.json is one `Comparison`: nested objects with the field names below, tuples as lists.
Metrics go by keys like "masked.ndcg@10": the history of the user is left out of the ranking
("masked") or not ("unmasked"), then recall, ndcg or mrr at 5, 10 or 20. They are of the test split
unless they say otherwise; validation alone chose the epoch. Knows nothing of training.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import read_json, write_json

COMPARISON_FORMAT = 1
MASKS = ("masked", "unmasked")
COMPARED = tuple(f"{mask}.{name}@10" for mask in MASKS for name in ("ndcg", "recall"))
TRAINED, POPULARITY, CONTENT_KNN = "trained", "popularity", "content-knn"  # kinds of a `Result`


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One recipe trained with one seed."""

    seed: int
    folder: str  # of the run, below the folder of the comparison
    epochs: int  # trained
    best_epoch: int  # by validation NDCG@10, history masked; this one was tested
    validation_ndcg: float  # NDCG@10 of the best epoch, history masked
    seconds_per_epoch: float  # median, of the training alone
    test_evaluations: int  # 1, unless the run was lengthened after its test
    commit: str | None  # that it was trained at; of a resumed run several, with commas
    log: tuple[dict[str, float], ...]  # one line an epoch, as in the run's log.csv
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean per-user difference to the recipe that all are compared with, seeds averaged first."""

    mean: float
    low: float  # of the paired bootstrap interval
    high: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table: a recipe over its seeds, or a baseline that is not trained."""

    name: str
    kind: str  # TRAINED, POPULARITY or CONTENT_KNN
    recipe: dict[str, Any] | None  # tables as in the TOML; None if it is not trained
    parameters: int | None  # trained numbers; None if it is not trained
    runs: tuple[SeedRun, ...]  # those that were run; none if it is not trained
    mean: dict[str, float]  # of every metric over the runs
    deviation: dict[str, float] | None  # sample s.d. over the runs; None with fewer than two
    difference: dict[str, Difference] | None  # by the metrics of COMPARED; None for `against`


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """What is missing from the table, and why."""

    name: str
    seed: int | None  # None: not trained, so it has no seed
    reason: str


@dataclass(frozen=True, kw_only=True)
class ComparedData:
    """What all were trained and tested on."""

    name: str
    hash: str  # of the prepared data
    users: int
    users_tested: int
    items: int
    interactions: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What it was run on. `threads` are torch's, on the CPU."""

    processor: str
    cores: int  # that the process may use
    threads: int
    memory_gib: float
    device: str  # "cpu", or the name of the GPU
    system: str
    python: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that one `mmsr-train compare` found."""

    format: int = COMPARISON_FORMAT
    command: str
    time: str  # ISO 8601, UTC
    commit: str | None
    machine: Machine
    versions: dict[str, str]
    data: ComparedData
    seeds: tuple[int, ...]  # that were asked for
    against: str  # the name of the result that differences are taken to
    interval: float  # share of the bootstrap that lies in `Difference.low` to `high`: 0.95
    results: tuple[Result, ...]  # in the order of the command line, the untrained last
    not_run: tuple[NotRun, ...]

    def result(self, name: str) -> Result | None:
        """Return a result by its name, if it was run."""
        return next((r for r in self.results if r.name == name), None)


def save_comparison(path: Path, comparison: Comparison) -> None:
    """Write a comparison as JSON, whole or not at all."""
    write_json(path, asdict(comparison))


def load_comparison(path: Path) -> Comparison:
    """Read what `save_comparison` wrote; `MmsrError` if it is something else."""
    raw = read_json(path, "a comparison, as mmsr-train compare --json writes it")
    if not isinstance(raw, dict) or raw.get("format") != COMPARISON_FORMAT:
        raise MmsrError(
            f"{path} is no comparison of format {COMPARISON_FORMAT}; "
            "make one with: mmsr-train compare CONFIG.toml --data DATA --out OUT --json FILE"
        )
    try:
        return _comparison(raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise MmsrError(f"{path} is damaged ({error!r}); run mmsr-train compare again") from None


def _comparison(raw: dict[str, Any]) -> Comparison:
    parts: dict[str, Any] = {
        "machine": Machine(**raw["machine"]),
        "data": ComparedData(**raw["data"]),
        "seeds": tuple(raw["seeds"]),
        "results": tuple(_result(r) for r in raw["results"]),
        "not_run": tuple(NotRun(**n) for n in raw["not_run"]),
    }
    return Comparison(**(raw | parts))


def _result(raw: dict[str, Any]) -> Result:
    differences = raw["difference"]
    if differences is not None:
        differences = {metric: Difference(**d) for metric, d in differences.items()}
    runs = tuple(SeedRun(**(run | {"log": tuple(run["log"])})) for run in raw["runs"])
    return Result(**(raw | {"runs": runs, "difference": differences}))
