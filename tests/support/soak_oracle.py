"""The right answer to a request, by brute force over the bundle and catalogue that it names.

A reply names its bundle and the catalogue's version when it was asked; it is computed a moment
later, by when the catalogue may have changed. So it is right if it is that of one of the versions
between. What the history's ids meant is settled when it was asked.
"""

# N items that are there, D output width

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from support.tiny_bundle import Shop

from mmsr.v1 import recommender_pb2 as pb

Floats = npt.NDArray[np.float32]
TOLERANCE = 1e-4  # of a score, relative to max(1, largest score): that of the export's gate


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the shop has said of an item since the bundles were made."""

    present: bool = True
    available: bool = True
    vector_D: Floats | None = None  # of both tables; None: the bundle's own rows
    categories: tuple[str, ...] = ()
    popularity: int = 0


SaidOf = Mapping[str, Said]


class History:
    """All versions of the catalogue, each change one version later than the last."""

    def __init__(self) -> None:
        self._states: list[SaidOf] = [{}]
        self._sent_s: list[float] = [0.0]  # when the change to each version was sent
        self._acknowledged_s: list[float] = [0.0]

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, version: int) -> SaidOf:
        return self._states[version]

    @property
    def newest(self) -> SaidOf:
        """Return the catalogue as it is."""
        return self._states[-1]

    def begin(self, changed: SaidOf, sent_s: float) -> None:
        """Add a version in which some items are as said; from now on it may be seen."""
        self._states.append({**self._states[-1], **changed})
        self._sent_s.append(sent_s)

    def acknowledge(self, at_s: float) -> None:
        """Say that what begins from now on sees the last version."""
        self._acknowledged_s.append(at_s)

    def between(self, sent_s: float, done_s: float) -> range:
        """Return the versions that a request of that time may have met."""
        first = bisect_left(self._acknowledged_s, sent_s) - 1
        return range(max(0, first), bisect_left(self._sent_s, done_s))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The items that are there, of one bundle in one version of the catalogue."""

    place: Mapping[str, int]
    inputs_ND: Floats  # as a history reads them
    vectors_ND: Floats  # as they are scored
    available_N: npt.NDArray[np.bool_]
    popularity_N: npt.NDArray[np.int64]
    categories: Sequence[frozenset[str]]
    max_length: int


def rows_of(shop: Shop, said_of: SaidOf) -> Rows:
    """Return what is there."""
    twin = shop.twin
    trained = {item_id: n for n, item_id in enumerate(twin.ids)}
    place = dict(trained)
    vectors = list(twin.outputs_CD[1 : len(twin.ids) + 1])
    inputs = list(twin.inputs_CW[1 : len(twin.ids) + 1, : twin.width])
    available, popularity = twin.available_N.tolist(), twin.popularity_N.tolist()
    categories = [frozenset(names) for names in twin.categories]
    for item_id, said in said_of.items():
        if not said.present:
            place.pop(item_id, None)
            continue
        if said.vector_D is None:  # its availability alone was said
            available[trained[item_id]] = said.available
            continue
        place[item_id] = len(vectors)
        vectors.append(said.vector_D)
        inputs.append(said.vector_D)
        available.append(said.available)
        popularity.append(said.popularity)
        categories.append(frozenset(said.categories))
    return Rows(
        place=place,
        inputs_ND=np.array(inputs, np.float32),
        vectors_ND=np.array(vectors, np.float32),
        available_N=np.array(available, bool),
        popularity_N=np.array(popularity, np.int64),
        categories=categories,
        max_length=twin.max_length,
    )


class Oracle:
    """Says of replies what is wrong with them."""

    def __init__(self, shops: Sequence[Shop], history: History) -> None:
        self._shops = {shop.folder.name: shop for shop in shops}
        self._history = history
        self._rows = lru_cache(maxsize=16)(self._made)

    def problem(
        self,
        request: pb.RecommendRequest,
        reply: pb.RecommendResponse,
        sent_s: float,
        done_s: float,
    ) -> str | None:
        """Return what is wrong; None: nothing. The times are those of the call."""
        if reply.model_version not in self._shops:
            return f"answered by {reply.model_version!r}, which nobody published"
        met = self._history.between(sent_s, done_s)
        version = reply.catalogue_version
        if version not in met:
            return f"version {version} of the catalogue, expected one of {list(met)}"
        found = ""
        for seen in range(version, met.stop):
            found = self._differs(request, reply, version, seen)
            if not found:
                return None
        return f"bundle {reply.model_version}, version {version} to {met.stop - 1}: {found}"

    def _made(self, bundle: str, version: int) -> Rows:
        return rows_of(self._shops[bundle], self._history[version])

    def _differs(
        self, request: pb.RecommendRequest, reply: pb.RecommendResponse, asked: int, seen: int
    ) -> str:
        """Say how a reply differs from what is right if the catalogue was at `seen`; "": not."""
        before, rows = (self._rows(reply.model_version, version) for version in (asked, seen))
        known = [item_id for item_id in request.history if item_id in before.place]
        unknown = [item_id for item_id in request.history if item_id not in before.place]
        if list(reply.unknown_item_ids) != list(dict.fromkeys(unknown)):
            return f"unknown {list(reply.unknown_item_ids)}, expected {unknown}"
        if reply.unknown_ids != len(unknown):
            return f"{reply.unknown_ids} unknown ids, expected {len(unknown)}"
        removed = self._removed(asked, seen)
        read = [item_id for item_id in known[-rows.max_length :] if item_id not in removed]
        popular = reply.fallback == pb.FALLBACK_POPULARITY
        if popular != (not read):
            return f"fallback {popular} after a history of {read}"
        scores_N = scores_after(rows, read) if read else rows.popularity_N.astype(np.float64)
        return differs_from(scores_N, eligible(rows, request), rows.place, request.k, reply)

    def _removed(self, asked: int, seen: int) -> set[str]:
        """Return the items that were removed between two versions, there again or not."""
        return {
            item_id
            for version in range(asked + 1, seen + 1)
            for item_id, said in self._history[version].items()
            if not said.present
        }


def scores_after(rows: Rows, read: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the scores of all items after a history: the model is a mean and a product."""
    read_LD = rows.inputs_ND[[rows.place[item_id] for item_id in read]]
    scores_N: npt.NDArray[np.float64] = rows.vectors_ND @ read_LD.mean(axis=0, dtype=np.float64)
    return scores_N


def eligible(rows: Rows, request: pb.RecommendRequest) -> set[str]:
    """Return the ids of the items that may come back."""
    barred = {*request.excluded_ids, *request.history}  # exclude_seen is the bundles' default
    include, exclude = set(request.include_categories), set(request.exclude_categories)
    only_available = request.only_available or not request.HasField("only_available")
    allowed = request.allowed.item_ids if request.HasField("allowed") else rows.place
    return {
        item_id
        for item_id in allowed
        if item_id not in barred
        and (n := rows.place.get(item_id)) is not None
        and (rows.available_N[n] or not only_available)
        and (not include or include & rows.categories[n])
        and not exclude & rows.categories[n]
    }


def differs_from(
    scores_N: npt.NDArray[np.float64],
    may_come: set[str],
    place: Mapping[str, int],
    k: int,
    reply: pb.RecommendResponse,
) -> str:
    """Say how a reply differs from the best k of what may come, ties in any order; "": not."""
    found = list(reply.item_ids)
    wanted = min(k, len(may_come))
    if len(found) != wanted or len(set(found)) != wanted:
        return f"{len(found)} items, {len(set(found))} different, expected {wanted}"
    if strangers := set(found) - may_come:
        return f"{sorted(strangers)} must not come back"
    if not wanted:
        return ""
    may_N = np.array([place[item_id] for item_id in may_come])
    best_K = np.sort(scores_N[may_N])[::-1][:wanted]
    tolerance = TOLERANCE * max(1.0, float(np.abs(scores_N).max()))
    right_K = scores_N[[place[item_id] for item_id in found]]
    if right_K.min() < best_K[-1] - tolerance:
        worst = found[int(right_K.argmin())]
        return f"{worst} scores {right_K.min():.6f}, the {wanted}th best {best_K[-1]:.6f}"
    error = float(np.abs(np.array(reply.scores) - right_K).max())
    if error > tolerance:
        return f"a score is wrong by {error:.6f}, {tolerance:.6f} is allowed"
    if list(reply.scores) != sorted(reply.scores, reverse=True):
        return "the scores do not fall"
    return ""


def switched(said: Said | None, available: bool) -> Said | None:
    """Return what is said of an item once its availability is; None: it is not there."""
    if said is not None and not said.present:
        return None
    return replace(said or Said(), available=available)
