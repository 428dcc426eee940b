"""The folder through which the command and its generator processes talk.

The command writes `plan.json` and `requests.npz`; each generator says `ready-RANK` and, when all
have, the command writes `start.json`; each generator writes `samples-RANK.npz` and
`outcome-RANK.json`. Files, not pipes: nothing is lost when either side is interrupted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mmsr.bundle.files import read_json, write_json
from mmsr.engine.bench.plan import RunPlan, plan_from_json
from mmsr.engine.bench.samples import Samples, join_samples, load_samples


@dataclass(frozen=True, kw_only=True)
class Order:
    """What generators are to do."""

    target: str
    plan: RunPlan
    requests: list[bytes]  # encoded


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a generator (or all of them) found out beside the samples."""

    sent_for_s: float  # how long requests were sent, warm-up included
    cpu_s: float  # the generators' own CPU time
    interrupted: bool
    event_loop: str
    model_versions: list[str]  # in the order in which they were first seen
    first_details: dict[str, str]  # status name -> what the first such failure said


def write_order(folder: Path, order: Order) -> None:
    """Write what the generators are to do."""
    ends = np.cumsum([len(request) for request in order.requests], dtype=np.int64)
    data = np.frombuffer(b"".join(order.requests), dtype=np.uint8)
    np.savez(folder / "requests.npz", data=data, ends=ends)
    write_json(folder / "plan.json", {"target": order.target, "plan": order.plan.to_json()})


def read_order(folder: Path) -> Order:
    """Return what `write_order` wrote."""
    raw = read_json(folder / "plan.json", "a generator's plan")
    with np.load(folder / "requests.npz", allow_pickle=False) as arrays:
        data, ends = arrays["data"].tobytes(), arrays["ends"].tolist()
    requests = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return Order(target=raw["target"], plan=plan_from_json(raw["plan"]), requests=requests)


def say_ready(folder: Path, rank: int) -> None:
    """Say that this generator is connected."""
    (folder / f"ready-{rank}").touch()


def all_ready(folder: Path, processes: int) -> bool:
    """Tell whether every generator is connected."""
    return all((folder / f"ready-{rank}").exists() for rank in range(processes))


def write_start(folder: Path, start_s: float) -> None:
    """Write the instant at which all begin, of the machine's `time.perf_counter`."""
    write_json(folder / "start.json", {"start_s": start_s})


def read_start(folder: Path) -> float | None:
    """Return the instant to begin at, or None as long as it is not known."""
    path = folder / "start.json"
    if not path.is_file():
        return None
    return float(read_json(path, "a generator's start")["start_s"])


def write_outcome(folder: Path, rank: int, outcome: Outcome, samples: Samples) -> None:
    """Write what came of it; the outcome last, since its presence says that all is there."""
    samples.save(folder / f"samples-{rank}.npz")
    write_json(folder / f"outcome-{rank}.json", asdict(outcome))


def read_outcome(folder: Path, processes: int) -> tuple[Outcome, Samples] | None:
    """Return outcome and samples of all generators together, or None if one wrote none."""
    found = []
    for rank in range(processes):
        path = folder / f"outcome-{rank}.json"
        if not path.is_file():
            return None
        raw = read_json(path, "a generator's outcome")
        found.append((Outcome(**raw), load_samples(folder / f"samples-{rank}.npz")))
    return merge_outcomes(found)


def merge_outcomes(found: Sequence[tuple[Outcome, Samples]]) -> tuple[Outcome, Samples]:
    """Return what several generators found as if one had."""
    outcomes = [outcome for outcome, _ in found]
    versions = list(dict.fromkeys(v for outcome in outcomes for v in outcome.model_versions))
    first_details: dict[str, str] = {}
    for outcome in reversed(outcomes):
        first_details |= outcome.first_details
    whole = replace(
        outcomes[0],
        sent_for_s=max(outcome.sent_for_s for outcome in outcomes),
        cpu_s=sum(outcome.cpu_s for outcome in outcomes),
        interrupted=any(outcome.interrupted for outcome in outcomes),
        model_versions=versions,
        first_details=first_details,
    )
    return whole, join_samples([_renumbered(samples, o, versions) for o, samples in found])


def _renumbered(samples: Samples, outcome: Outcome, versions: list[str]) -> Samples:
    """Return the samples with their model versions numbered as in `versions`."""
    numbers = [0, *(versions.index(version) + 1 for version in outcome.model_versions)]
    return replace(samples, version_R=np.array(numbers, np.uint8)[samples.version_R])
