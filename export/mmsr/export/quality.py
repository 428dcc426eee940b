"""The gate for quality: a perfectly exported bad model is still a wrong model.

Candidate and live bundle rank the same held-out interactions, those that neither was trained on; a
run that was trained on everything is judged by the run that it was selected by, and must do no
worse than that on what it was trained on itself. Here is what is measured and what is allowed;
nothing is known of how a bundle comes to be live.
"""

# E held-out users, N items

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import read_json
from mmsr.bundle.repository import Repository
from mmsr.engine.model import SequenceModel
from mmsr.export.held_out import (
    Comparison,
    Gains,
    Interactions,
    Places,
    bundle_gains,
    compare,
    held_out,
    popularity_gains,
    torch_gains,
)
from mmsr.export.parity import THREADS
from mmsr.export.provable import open_to_prove
from mmsr.export.refusal import PUBLISHED_NOTHING, RefusedError
from mmsr.training.architectures import build_model
from mmsr.training.checkpoint import (
    RunError,
    checkpoint_folder,
    load_tensors,
    load_weights,
    run_ref,
)
from mmsr.training.config import recipe_to_dict
from mmsr.training.evaluate import evaluation_rows
from mmsr.training.items import ItemRows
from mmsr.training.run import TrainedRun
from mmsr.training.split import Split, make_split

MOST_SHRINKAGE = 0.2  # share by which items or interactions may fall
TEST_NDCG, POPULARITY_NDCG = "test.masked.ndcg@10", "popularity.masked.ndcg@10"


class QualityError(RefusedError):
    """The candidate is proven, but not good enough to be published."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user allows."""

    max_drop: float = 0.05  # share of NDCG@10 that may be lost against the live bundle
    accept_drop: bool = False  # publish whatever the quality is


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a bundle was made from."""

    items: int
    interactions: int


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """The live bundle beside the candidate."""

    bundle_id: str  # what the label names
    size: Size | None  # None: it cannot be read
    ndcg: Comparison | None  # candidate against live; None: `why` they cannot be compared
    why: str | None = None
    damage: str | None = None  # of the live bundle
    instead: str | None = None  # the one before, which it was compared with for that reason

    @property
    def name(self) -> str:
        """Return what the candidate was compared with, for people."""
        if self.instead is None:
            return f"the live bundle {self.bundle_id}"
        return f"bundle {self.instead}, live before {self.bundle_id} (damaged)"


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """What was measured, by which rules, and what was refused by them; goes into the manifest."""

    measured_on: str  # "run", "the run that it was selected by", "evaluation.json", "nothing"
    size: Size
    popularity: Comparison | None  # candidate against popularity
    live: LiveReport | None  # None: the label names no bundle yet
    # A final run's own weights on everybody's newest interaction, which they were trained on,
    # against the run that it was selected by (popularity, where that is gone). None: no final run.
    final: Comparison | None = None
    max_drop: float
    accept_drop: bool

    def problems(self) -> Iterator[str]:
        """Say what speaks against publishing."""
        if self.popularity is None:
            yield (
                "the quality cannot be told: the run was trained on all interactions, and neither "
                "the run that it was selected by nor its metrics are there (mmsr-train evaluate)"
            )
        elif self.popularity.ndcg <= self.popularity.reference:
            yield (
                f"NDCG@10 {self.popularity.ndcg:.4f} does not beat popularity's "
                f"{self.popularity.reference:.4f} ({self.popularity.users} users)"
            )
        if self.final is not None and self.final.is_lower(self.max_drop):
            yield (
                f"the final training went wrong: NDCG@10 {self.final.ndcg:.4f} on interactions "
                f"that it was trained on, {self.final.reference:.4f} by the run that it was "
                f"selected by or popularity ({self.final.users} users, 95 % interval "
                f"{self.final.low:+.4f} to {self.final.high:+.4f}); run mmsr-train final again"
            )
        if self.live is not None:
            yield from self._against(self.live)

    def _against(self, live: LiveReport) -> Iterator[str]:
        ndcg = live.ndcg
        if ndcg is not None and ndcg.is_lower(self.max_drop):
            yield (
                f"NDCG@10 {ndcg.ndcg:.4f} is {ndcg.loss:.1%} lower than {ndcg.reference:.4f} of "
                f"{live.name} ({ndcg.users} users, 95 % interval "
                f"{ndcg.low:+.4f} to {ndcg.high:+.4f}), at most {self.max_drop:.1%} allowed"
            )
        for what, before in ({} if live.size is None else asdict(live.size)).items():
            now = getattr(self.size, what)
            if now < (1 - MOST_SHRINKAGE) * before:
                yield (
                    f"{now} {what}, {1 - now / before:.0%} fewer than the {before} of "
                    f"{live.name}, at most {MOST_SHRINKAGE:.0%} allowed"
                )

    def check(self) -> None:
        """Raise `QualityError` unless the candidate is good enough or a drop was accepted."""
        problems = list(self.problems())
        if problems and not self.accept_drop:
            error = QualityError(
                f"{'; '.join(problems)}; {PUBLISHED_NOTHING}; --accept-drop publishes all the same"
            )
            error.quality = self
            raise error

    def warnings(self) -> Iterator[str]:
        """Say what does not speak against publishing, and wants somebody's eye."""
        live = self.live
        if live is not None and live.damage is not None:
            beside = (
                "the candidate was not compared with any"
                if live.instead is None
                else f"the candidate was compared with {live.instead}, live before it"
            )
            yield f"the live bundle {live.bundle_id} is damaged ({live.damage}); {beside}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {
            **asdict(self),
            "problems": list(self.problems()),
            "warnings": list(self.warnings()),
        }


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """The candidate's gains on what a split holds out."""

    measured_on: str
    split: Split
    gains: Gains


@dataclass(frozen=True, kw_only=True)
class _Selecting:
    """The run that a final run was selected by; its item rows are computed once."""

    run: TrainedRun
    rows: ItemRows

    def gains(self, split: Split, asked: Interactions) -> Gains:
        """Return its gains; `split` is what `asked` was taken from."""
        return Gains(asked=asked, ndcg_E=torch_gains(self.run.model, self.rows, split, asked))


def judge(
    run: TrainedRun, gains: Gains, repository: Repository, label: str, policy: Policy
) -> QualityReport:
    """Measure the candidate beside popularity and the bundle that `label` names now, if any.

    `gains` are those of the staged bundle on what its run holds out.
    """
    selecting = None if run.info.selected_by is None else _selecting_run(run)
    candidate = _candidate(run, gains, selecting)
    popularity = None if candidate is None else _popularity(run, candidate)
    measured_on = "nothing" if candidate is None else candidate.measured_on
    if popularity is None and (popularity := _from_evaluation(run)) is not None:
        measured_on = "evaluation.json"
    return QualityReport(
        measured_on=measured_on,
        size=Size(items=run.info.items, interactions=run.dataset.info.interactions),
        popularity=popularity,
        live=_live(run, candidate, repository, label),
        final=None if run.info.selected_by is None else _final(run, gains, selecting),
        max_drop=policy.max_drop,
        accept_drop=policy.accept_drop,
    )


def _candidate(run: TrainedRun, gains: Gains, selecting: _Selecting | None) -> _Candidate | None:
    if run.info.selected_by is None:
        return _Candidate(measured_on="run", split=run.split, gains=gains)
    if selecting is None:
        return None
    split = selecting.run.split
    asked = held_out(split, gains.asked.exclude_seen)
    return _Candidate(
        measured_on="the run that it was selected by",
        split=split,
        gains=selecting.gains(split, asked),
    )


def _final(run: TrainedRun, gains: Gains, selecting: _Selecting | None) -> Comparison:
    """Compare a final bundle's own gains with those of the run that it was selected by.

    Good weights have learned what they are asked for here; that proves nothing of their worth, but
    weights that do worse than ones that have not seen it are no good.
    """
    if selecting is None:
        return compare(gains.ndcg_E, popularity_gains(run.split, run.info.items, gains.asked))
    return compare(gains.ndcg_E, selecting.gains(run.split, gains.asked).ndcg_E)


def _selecting_run(run: TrainedRun) -> _Selecting | None:
    """Return the run that says how good this final run is, on the same data; None if it is gone."""
    selected_by = run.info.selected_by
    assert selected_by is not None
    try:
        if run_ref(Path(selected_by.run)) != selected_by:  # it has been trained on since
            return None
        folder = checkpoint_folder(Path(selected_by.run), "best")
        model = build_model(run.info.recipe.model, run.info.items, run.info.feature_widths)
        load_weights(model, load_tensors(folder / "model.safetensors"), folder)
    except RunError:
        return None
    split = make_split(run.dataset, run.info.recipe.split)
    model = model.to(torch.device("cpu")).eval()
    return _Selecting(
        run=replace(run, model=model, split=split, checkpoint=folder),
        rows=evaluation_rows(model, run.content, split),
    )


def _popularity(run: TrainedRun, candidate: _Candidate) -> Comparison:
    popular_E = popularity_gains(candidate.split, run.info.items, candidate.gains.asked)
    return compare(candidate.gains.ndcg_E, popular_E)


def _from_evaluation(run: TrainedRun) -> Comparison | None:
    """Return what `mmsr-train evaluate` found of the selecting run, which may be gone."""
    path = run.checkpoint.parents[1] / "evaluation.json"
    found = read_json(path, "the metrics of a run") if path.is_file() else {}
    metrics = found.get("metrics", {})
    if found.get("checkpoint") != run.checkpoint.name or TEST_NDCG not in metrics:
        return None
    above = found["above_popularity"]
    return Comparison(
        users=found["users"],
        ndcg=metrics[TEST_NDCG],
        reference=metrics[POPULARITY_NDCG],
        low=above["low"],
        high=above["high"],
    )


def _live(
    run: TrainedRun, candidate: _Candidate | None, repository: Repository, label: str
) -> LiveReport | None:
    """Compare with what the label names; if that is damaged, with the last whole one before it."""
    if label not in repository.label_names():
        return None
    live, *before = dict.fromkeys(m.bundle_id for m in reversed(repository.history(label)))
    try:
        return _beside(run, candidate, repository, live)
    except BundleError as error:  # to be replaced, not to be waited for
        damage = str(error)
    for earlier in before:
        with suppress(BundleError):  # damaged too, or pruned
            found = _beside(run, candidate, repository, earlier)
            return replace(found, bundle_id=live, damage=damage, instead=earlier)
    why = "it is damaged, and no bundle before it can be read"
    return LiveReport(bundle_id=live, size=None, ndcg=None, why=why, damage=damage)


def _beside(
    run: TrainedRun, candidate: _Candidate | None, repository: Repository, bundle_id: str
) -> LiveReport:
    """Compare with one bundle; `BundleError` if it is damaged or gone."""
    folder = repository.path(bundle_id)
    catalogue = load_catalogue(folder)
    size = Size(items=len(catalogue), interactions=int(catalogue.popularity.sum()))
    if candidate is None:
        return _incomparable(bundle_id, size, "the candidate cannot be measured")
    model = open_to_prove(folder, threads=THREADS)
    try:
        return _compare(run, candidate, model, size)
    finally:
        model.close()


def _incomparable(bundle_id: str, size: Size, why: str) -> LiveReport:
    return LiveReport(bundle_id=bundle_id, size=size, ndcg=None, why=why)


def _compare(
    run: TrainedRun, candidate: _Candidate, model: SequenceModel, size: Size
) -> LiveReport:
    unseen_e = _unseen(run, candidate, model.bundle.manifest.provenance)
    if len(unseen_e) == 0:
        why = "the live bundle was trained on all that is held out here, or may have been"
        return _incomparable(model.version, size, why)
    asked = in_rows_of(model, run, candidate.gains.asked.some(unseen_e))
    ndcg = compare(candidate.gains.ndcg_E[unseen_e], bundle_gains(model, asked))
    return LiveReport(bundle_id=model.version, size=size, ndcg=ndcg)


def _unseen(run: TrainedRun, candidate: _Candidate, live: dict[str, Any]) -> Places:
    """Return the places of the interactions that the live bundle was not trained on.

    A run with a test of the same kind has never seen what is held out here, a user's last
    interaction. One that was trained on everything, or holds out otherwise, has surely not seen
    what is newer than its data.
    """
    everyone_E = np.arange(len(candidate.gains.asked))
    own = recipe_to_dict(run.info.recipe)["split"]
    if live.get("selected_by") is None and live.get("recipe", {}).get("split", own) == own:
        return everyone_E
    split, newest = candidate.split, live.get("newest")
    if newest is None or len(split.items_T) != len(run.dataset.times_T):
        return everyone_E[:0]
    at_E = split.test.history_end_U[candidate.gains.asked.users_E]  # the target follows its history
    newer_E: Places = everyone_E[run.dataset.times_T[at_E] > newest]
    return newer_E


def in_rows_of(model: SequenceModel, run: TrainedRun, asked: Interactions) -> Interactions:
    """Return the same interactions in the rows of another bundle; 0: it has no such item."""
    rows = model.bundle.catalogue.rows()
    ids = run.dataset.item_table(["item_id"])["item_id"].to_pylist()
    row_N = np.array([0, *(rows.get(item_id, 0) for item_id in ids)], np.int32)
    return replace(
        asked,
        histories=[row_N[history] for history in asked.histories],
        target_E=row_N[asked.target_E].astype(np.int64),
    )
