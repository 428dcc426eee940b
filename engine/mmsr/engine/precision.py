"""What a sequence graph may be written in, and how far its answers may then be from PyTorch's."""

from dataclasses import dataclass

from mmsr.bundle.manifest import Manifest

FP32_TOLERANCE = 1e-4  # see `Limits.score_error`
FP32 = "fp32"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is allowed of the answers in one precision."""

    overlap: float  # least share of right items among the best; the project's definition
    ndcg_loss: float  # largest share of NDCG@10 that may be lost, unless it may be chance
    # Largest error of a returned score, relative to max(1, top score).
    score_error: float
    # Of a returned state, relative to max(1, largest entry).
    state_error: float
    # The error of a score between two forms of one request: alone or in a batch, padded or not.
    form_error: float
    # NDCG of the probe that no tie within fp32's tolerance explains; None: `ndcg_loss` judges.
    ndcg_error: float | None


# Two fp32 computations of one score lie within 1e-4: the project's definition of a right answer.
# int8 chooses candidates only, their scores are fp32's; where two forms of a request choose others
# at the boundary, a place may differ by a gap between neighbours. Halves keep 11 bits and 8 bits of
# a number; measured on Beauty (12,101 items, width 128): .0011 and .0043, allowed about 20 times.
LIMITS = {
    FP32: Limits(
        overlap=1.0,
        ndcg_loss=0.001,  # only ties are broken otherwise: measured 0
        score_error=FP32_TOLERANCE,
        state_error=FP32_TOLERANCE,
        form_error=FP32_TOLERANCE,
        ndcg_error=1e-9,  # two sums of the same numbers
    ),
    "fp16": Limits(
        overlap=0.995,
        ndcg_loss=0.005,
        score_error=0.02,
        state_error=0.02,
        form_error=0.02,
        ndcg_error=None,
    ),
    "bf16": Limits(
        overlap=0.995,
        ndcg_loss=0.005,
        score_error=0.1,
        state_error=0.1,
        form_error=0.1,
        ndcg_error=None,
    ),
    "int8": Limits(
        overlap=0.99,
        ndcg_loss=0.01,
        score_error=FP32_TOLERANCE,
        state_error=FP32_TOLERANCE,
        form_error=0.01,
        ndcg_error=None,
    ),
}


def precision_of(manifest: Manifest) -> str:
    """Return what a bundle's sequence graph is written in; older ones knew fp32 alone."""
    recorded: dict[str, object] = manifest.provenance.get("precision", {})
    return str(recorded.get("sequence", FP32))


def limits_of(precision: str) -> Limits:
    """Return a precision's limits; one that this release does not know has fp32's."""
    return LIMITS.get(precision, LIMITS[FP32])
