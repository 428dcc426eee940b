"""The small bundle with everything that a bundle may have, and the right answers with filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.tiny_bundle import Shop, Sizes, Twin, make_twin, seal, write_files
from support.tiny_explain import explain_graph, explained_manifest

from mmsr.bundle.repository import Repository


def publish_full(root: Path, sizes: Sizes | None = None, seed: int = 0) -> Shop:
    """Publish a bundle that can explain as `stable` in a new repository at `root`."""
    sizes = sizes or Sizes()
    twin = make_twin(sizes, seed)
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        write_files(folder, twin, sizes)
        (folder / "explain.onnx").write_bytes(explain_graph(sizes.width))
        seal(folder, explained_manifest(sizes))
        bundle_id = repository.publish(folder)
    repository.promote(bundle_id, "stable")
    return Shop(root=root, folder=repository.path(bundle_id), sizes=sizes, twin=twin)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What restricts an answer, as a caller says it."""

    excluded_ids: Sequence[str] = ()
    allowed_ids: Sequence[str] | None = None
    include_categories: Sequence[str] = ()
    exclude_categories: Sequence[str] = ()
    only_available: bool = True


def eligible(twin: Twin, filters: Filters, also_excluded: Sequence[str] = ()) -> list[int]:
    """Return the places (row - 1) of the items that may come back, item by item."""
    barred = {*filters.excluded_ids, *also_excluded}
    return [
        place
        for place, item_id in enumerate(twin.ids)
        if item_id not in barred
        and (filters.allowed_ids is None or item_id in filters.allowed_ids)
        and (bool(twin.available_N[place]) or not filters.only_available)
        and not set(twin.categories[place]) & set(filters.exclude_categories)
        and (
            not filters.include_categories
            or set(twin.categories[place]) & set(filters.include_categories)
        )
    ]


def ranked(twin: Twin, values_N: Sequence[float], places: Sequence[int]) -> list[str]:
    """Return the ids of some places, the largest value first, ties by row."""
    return [twin.ids[n] for n in sorted(places, key=lambda n: (-values_N[n], n))]


def scores_after(twin: Twin, history: Sequence[str]) -> list[float]:
    """Return the score of every item after a history with a known item."""
    place = {item_id: n for n, item_id in enumerate(twin.ids)}
    state_D = twin.state([place[item_id] + 1 for item_id in history if item_id in place])
    scores: list[float] = (twin.outputs_CD[1 : len(twin.ids) + 1] @ state_D).tolist()
    return scores


def cosines_to(twin: Twin, item_id: str, *, by_content: bool) -> list[float]:
    """Return the cosine of every item to one."""
    table_CD = twin.content_CD if by_content else twin.outputs_CD
    vectors_ND = table_CD[1 : len(twin.ids) + 1].astype(np.float64)
    query_D = vectors_ND[twin.ids.index(item_id)]
    lengths_N = np.linalg.norm(vectors_ND, axis=1) * np.linalg.norm(query_D)
    cosines: list[float] = (vectors_ND @ query_D / lengths_N).tolist()
    return cosines
