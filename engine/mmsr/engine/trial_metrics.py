"""What a canary's trial says of itself at a scrape."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from mmsr.engine.metrics import counter, gauge, histogram
from mmsr.engine.trial import Trial

BY_LABEL = ("label",)


class TrialMetrics:
    """The metrics of the split, the shadow and the limits."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def metrics(self) -> Iterator[Metric]:
        """Return them as they are now."""
        trial, shadow = self._trial, self._trial.shadow
        label, default = trial.label, trial.serving.default_label
        trying = trial.serving.candidate is not None
        yield gauge("mmsr_canary_trying", "1 while it is on trial.", BY_LABEL, {label: trying})
        yield counter(
            "mmsr_canary_rollbacks",
            "Trials that this server has ended, by the limit.",
            ("label", "limit"),
            {(label, limit): count for limit, count in dict(trial.rollbacks).items()},
        )
        yield counter(
            "mmsr_shadow_requests",
            "Answers of the default label put to the canary too, by what came of it.",
            ("label", "result", "cause"),
            {(label, *ended): count for ended, count in dict(shadow.results).items()},
        )
        yield histogram(
            "mmsr_shadow_overlap",
            "Share of the items that the answers of both have.",
            BY_LABEL,
            {(label,): shadow.overlaps},
        )
        yield histogram(
            "mmsr_shadow_rank_biased_overlap",
            "The same, the first places counting most (p = 0.9).",
            BY_LABEL,
            {(label,): shadow.rank_biased},
        )
        yield histogram(
            "mmsr_shadow_seconds",
            "Queue and computation of what was compared, under either label.",
            BY_LABEL,
            {(label,): shadow.seconds, (default,): shadow.default_seconds},
        )
