"""The folder through which the command and its generator process talk.

The command writes `plan.json` and `requests.npz`; the generator writes `outcome.json` and
`samples.npz`. Files, not pipes: nothing is lost when either side is interrupted.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmsr.bundle.files import read_json, write_json
from mmsr.engine.bench.plan import RunPlan, plan_from_json
from mmsr.engine.bench.samples import Samples, load_samples


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the generator found out beside the samples."""

    sent_for_s: float  # how long requests were sent, warm-up included
    cpu_s: float  # the generator's own CPU time
    interrupted: bool
    event_loop: str
    model_versions: list[str]
    first_details: dict[str, str]  # status name -> what the first such failure said


def write_order(folder: Path, target: str, plan: RunPlan, requests: list[bytes]) -> None:
    """Write what the generator is to do."""
    ends = np.cumsum([len(request) for request in requests], dtype=np.int64)
    data = np.frombuffer(b"".join(requests), dtype=np.uint8)
    np.savez(folder / "requests.npz", data=data, ends=ends)
    write_json(folder / "plan.json", {"target": target, "plan": plan.to_json()})


def read_order(folder: Path) -> tuple[str, RunPlan, list[bytes]]:
    """Return target, plan and encoded requests."""
    order = read_json(folder / "plan.json", "a generator's plan")
    with np.load(folder / "requests.npz", allow_pickle=False) as arrays:
        data, ends = arrays["data"].tobytes(), arrays["ends"].tolist()
    requests = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return order["target"], plan_from_json(order["plan"]), requests


def write_outcome(folder: Path, outcome: Outcome, samples: Samples) -> None:
    """Write what came of it; `outcome.json` last, since its presence says that all is there."""
    samples.save(folder / "samples.npz")
    write_json(folder / "outcome.json", asdict(outcome))


def read_outcome(folder: Path) -> tuple[Outcome, Samples] | None:
    """Return the outcome and samples, or None if the generator wrote none."""
    path = folder / "outcome.json"
    if not path.is_file():
        return None
    raw = read_json(path, "a generator's outcome")
    return Outcome(**raw), load_samples(folder / "samples.npz")
