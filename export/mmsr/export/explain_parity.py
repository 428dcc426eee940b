"""The explain graph against PyTorch: with all sources on, and with each one left out.

PyTorch's side is the full forward pass over every position, by the model's own attention. What is
measured decides nothing: what is allowed stands in `gate`.
"""

# P users, L history length, M candidates, S sources, D width

from dataclasses import dataclass

import numpy as np
import torch

from mmsr.engine.model import SequenceModel
from mmsr.engine.probe_answers import distance, spread
from mmsr.engine.probe_set import Floats, ProbeSet, Rows
from mmsr.engine.runners.base import Runner
from mmsr.export.subsets import Histories
from mmsr.export.tables import answered
from mmsr.training.explain.sources import read_without
from mmsr.training.items import ItemRows
from mmsr.training.model import SequentialRecommender
from mmsr.training.run import TrainedRun

USERS = 256  # from the shortest history to the longest
BATCH = 16  # users a call
NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One form of the switches: how far scores and attention are from PyTorch's."""

    score_error: float  # relative to max(1, the user's largest score)
    attention_error: float  # absolute; an attention sums to 1
    largest_change: float  # of a score by PyTorch, beside all sources on: what there is to find


@dataclass(frozen=True, kw_only=True)
class ExplainReport:
    """The explain graph on real histories, asked about PyTorch's best items."""

    users: int
    candidates: int
    left_out: dict[str, LeftOut]  # "nothing", then each source


def check_explain(
    run: TrainedRun, model: SequenceModel, rows: ItemRows, histories: Histories
) -> ExplainReport | None:
    """Compare an opened bundle's explain graph; None if it has none.

    `rows` are the plain ones. Every batch is padded to its own longest history.
    """
    if model.bundle.explain_spec is None:
        return None
    few = spread(np.array([len(history) for history in histories]), USERS)
    some = [histories[user][-run.model.config.max_length :] for user in few.tolist()]
    probe = answered(run.model, rows, some, np.ones(len(some), np.int64))
    return ExplainReport(
        users=len(some),
        candidates=probe.top_rows_PK.shape[1],
        left_out={
            source or NOTHING: _compare(
                model, probe, source, _wanted(run.model, rows, probe, source)
            )
            for source in (None, *model.bundle.sources)
        },
    )


def _compare(
    model: SequenceModel, probe: ProbeSet, source: str | None, wanted: tuple[Floats, Floats]
) -> LeftOut:
    """Ask with the source left out; `wanted` are PyTorch's scores and attention."""
    switches_S = np.array([name != source for name in model.bundle.sources], np.float32)
    scores_PM, attention_PL = _asked(model.explainer.runner(), probe, switches_S)
    wanted_PM, wanted_PL = wanted
    scale_P = np.maximum(1.0, np.abs(wanted_PM).max(axis=1))
    return LeftOut(
        score_error=float((distance(scores_PM, wanted_PM) / scale_P).max()),
        attention_error=float(distance(attention_PL, wanted_PL).max()),
        largest_change=float(np.abs(wanted_PM - probe.top_scores_PK).max()),
    )


def _wanted(
    model: SequentialRecommender, rows: ItemRows, probe: ProbeSet, source: str | None
) -> tuple[Floats, Floats]:
    """Return PyTorch's scores [P, M] and attention [P, L]."""
    device = rows.inputs_nW.device
    states, attention_PL = [], np.zeros(probe.history_PL.shape, np.float32)
    for some in _batches(probe.length_P):
        length_B = probe.length_P[some]
        longest = int(length_B.max())
        state_BD, attention_BL = read_without(
            model,
            rows.inputs_nW,
            torch.from_numpy(probe.history_PL[some, :longest]).to(device),
            torch.from_numpy(length_B).to(device),
            source,
        )
        states.append(state_BD.cpu().numpy())
        attention_PL[some, :longest] = attention_BL.cpu().numpy()
    state_PD = np.concatenate(states)
    if source is None:  # what the sequence graph is compared with
        return probe.top_scores_PK, attention_PL
    outputs_PMD = rows.outputs_nD.cpu().numpy()[probe.top_rows_PK]
    return np.einsum("pd,pmd->pm", state_PD, outputs_PMD), attention_PL


def _asked(runner: Runner, probe: ProbeSet, switches_S: Floats) -> tuple[Floats, Floats]:
    """Return the graph's scores [P, M] and attention [P, L], padded with 0."""
    scores, attention_PL = [], np.zeros(probe.history_PL.shape, np.float32)
    for some in _batches(probe.length_P):
        length_B = probe.length_P[some]
        longest = int(length_B.max())
        outputs = runner.run(
            {
                "history": probe.history_PL[some, :longest],
                "length": length_B,
                "candidates": probe.top_rows_PK[some],
                "switches": np.tile(switches_S, (len(length_B), 1)),
            }
        )
        scores.append(outputs["scores"])
        attention_PL[some, :longest] = outputs["attention"]
    return np.concatenate(scores), attention_PL


def _batches(length_P: Rows) -> list[slice]:
    return [slice(begin, begin + BATCH) for begin in range(0, len(length_P), BATCH)]
