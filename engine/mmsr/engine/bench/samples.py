"""What happened to every request of one run, as arrays. Knows nothing of how it was sent."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

# R requests, in the order in which they ended

OK = 0  # gRPC's status codes are small numbers, 0 is OK
# No statuses of gRPC's:
UNFINISHED = 255  # still under way when the run was ended
UNSENT = 254  # the generator was so late that it gave up sending


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One element a request. Times are in seconds since the run's start (warm-up included).

    The fields from `queue_us_R` on are the server's answer, 0 where there was none.
    """

    intended_s_R: npt.NDArray[np.float64]
    sent_s_R: npt.NDArray[np.float64]
    done_s_R: npt.NDArray[np.float64]
    status_R: npt.NDArray[np.uint8]
    queue_us_R: npt.NDArray[np.uint32]
    compute_us_R: npt.NDArray[np.uint32]
    batch_size_R: npt.NDArray[np.uint32]  # 0: the server did not say, or no model answered
    fallback_R: npt.NDArray[np.uint8]
    version_R: npt.NDArray[np.uint8]  # which of the run's model versions, from 1 on; 0: none said

    def __len__(self) -> int:
        return len(self.status_R)

    def pick(self, chosen_R: npt.NDArray[np.bool_]) -> "Samples":
        """Return the chosen requests only."""
        return Samples(**{f.name: getattr(self, f.name)[chosen_R] for f in fields(self)})

    def save(self, path: Path) -> None:
        """Write the arrays as one .npz file."""
        np.savez(path, **{f.name: getattr(self, f.name) for f in fields(self)})


def join_samples(parts: Sequence[Samples]) -> Samples:
    """Return the requests of several processes as one run, in the order of the parts."""
    return Samples(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(Samples)
        }
    )


def load_samples(path: Path) -> Samples:
    """Read what `Samples.save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Samples(**{f.name: arrays[f.name] for f in fields(Samples)})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says of one answered request."""

    queue_us: int = 0
    compute_us: int = 0
    batch_size: int = 0
    fallback: int = 0
    version: int = 0


NO_ANSWER = Answer()


class Recorder:
    """Collects requests as they end; 65 bytes each."""

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._times = array("d")  # intended, sent, done, and so on
        self._status = array("B")
        self._answers = array("L")  # queue, compute, batch, fallback, version, and so on

    def add(self, times_s: tuple[float, float, float], status: int, answer: Answer) -> None:
        """Note one request: when it was intended, sent and done, and what came back."""
        self._times.extend(times_s)
        self._status.append(status)
        self._answers.extend(
            (
                answer.queue_us,
                answer.compute_us,
                answer.batch_size,
                answer.fallback,
                answer.version,
            )
        )

    def samples(self) -> Samples:
        """Return what was collected so far."""
        times_R3 = np.array(self._times).reshape(-1, 3) - self._start_s
        answers_R5 = np.array(self._answers).reshape(-1, 5)
        return Samples(
            intended_s_R=times_R3[:, 0],
            sent_s_R=times_R3[:, 1],
            done_s_R=times_R3[:, 2],
            status_R=np.array(self._status),
            queue_us_R=answers_R5[:, 0].astype(np.uint32),
            compute_us_R=answers_R5[:, 1].astype(np.uint32),
            batch_size_R=answers_R5[:, 2].astype(np.uint32),
            fallback_R=answers_R5[:, 3].astype(np.uint8),
            version_R=answers_R5[:, 4].astype(np.uint8),
        )
