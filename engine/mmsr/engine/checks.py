"""Is a query within its limits? `InvalidRequest` names the field, what came and what is expected.

Fields are called as on the wire. Ids of items are checked where the catalogue does not know them:
its own were checked at load.
"""

from collections.abc import Iterable, Sequence, Sized

from mmsr.engine.config import Limits
from mmsr.engine.errors import InvalidRequest
from mmsr.engine.query import ExplainQuery, Query, ScoreQuery, SimilarQuery

SHOWN = 20  # characters of a text that is too long


def check_query(query: Query, limits: Limits) -> None:
    """Check what is asked to be recommended, all but the ids."""
    _check_k(query.k, limits.k)
    check_history(query.history, limits)
    check_filters(query, limits)
    check_key("user_key", query.user_key, limits)


def check_filters(query: Query | SimilarQuery, limits: Limits) -> None:
    """Check what restricts the answer, all but the ids of items."""
    if query.excluded_ids:
        _check_count("excluded_ids", query.excluded_ids, "ids", limits.excluded)
    if query.allowed_ids is not None:
        _check_count("allowed", query.allowed_ids, "ids", limits.allowed)
    for field, names in (
        ("include_categories", query.include_categories),
        ("exclude_categories", query.exclude_categories),
    ):
        if names:
            _check_count(field, names, "names", limits.categories)
            check_ids(field, names, limits, "name")


def check_score(query: ScoreQuery, limits: Limits) -> None:
    """Check what is asked to be ranked, all but the ids."""
    check_history(query.history, limits)
    if not query.candidate_ids:
        raise InvalidRequest(f"candidate_ids is empty; expected 1 to {limits.candidates} ids")
    _check_count("candidate_ids", query.candidate_ids, "ids", limits.candidates)
    check_key("user_key", query.user_key, limits)


def check_similar(query: SimilarQuery, limits: Limits) -> None:
    """Check what is asked to be compared, all but the ids."""
    _check_k(query.k, limits.k)
    check_filters(query, limits)


def check_explain(query: ExplainQuery, limits: Limits) -> None:
    """Check what is asked to be explained, all but the ids."""
    check_history(query.history, limits)
    _check_count("item_ids", query.item_ids, "ids", limits.explained)
    if not 0 <= query.k <= limits.explained:
        raise InvalidRequest(f"k is {query.k}; expected 0 to {limits.explained}")
    check_key("user_key", query.user_key, limits)


def check_history(history: Sized, limits: Limits) -> None:
    """Check how long a history is."""
    if len(history) > limits.history:
        raise InvalidRequest(
            f"history has {len(history)} ids; expected at most {limits.history}: send the newest"
        )


def require_known(seen: Sequence[int], history: Sequence[str]) -> None:
    """Refuse a history without a known item, where there is nothing to answer with instead."""
    if not seen:
        raise InvalidRequest(
            f"history has {len(history)} ids, none of which the catalogue knows; "
            "expected at least one known id"
        )


def check_key(field: str, key: str, limits: Limits) -> None:
    """Check the size of a key that is only handed through."""
    if len(key) * 4 > limits.id_bytes and (size := len(key.encode())) > limits.id_bytes:
        raise InvalidRequest(f"{field} has {size} bytes; expected at most {limits.id_bytes}")


def check_ids(field: str, ids: Iterable[str], limits: Limits, what: str = "id") -> None:
    """Check ids that the catalogue does not know, or names of categories."""
    for item_id in ids:
        if not item_id:
            raise InvalidRequest(f"{field} holds an empty {what}; expected the shop's {what}s")
        if len(item_id) * 4 > limits.id_bytes:  # UTF-8 has up to 4 bytes a character
            size = len(item_id.encode())
            if size > limits.id_bytes:
                raise InvalidRequest(
                    f"{field} holds {'an' if what == 'id' else 'a'} {what} of {size} bytes "
                    f"({item_id[:SHOWN]}…); expected at most {limits.id_bytes}"
                )


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise InvalidRequest(f"k is {k}; expected 1 to {most}")


def _check_count(field: str, values: Sized, what: str, most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(f"{field} has {len(values)} {what}; expected at most {most}")


def check_batch(requests: Sized, limits: Limits) -> None:
    """Check how many requests come in one call."""
    if not 1 <= len(requests) <= limits.batch:
        raise InvalidRequest(f"requests has {len(requests)}; expected 1 to {limits.batch}")
