"""Finds a user by id. One that is not there is an error that names the ids most like it."""

from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmsr.bundle.errors import MmsrError
from mmsr.training.dataset import Dataset

NEAR_IDS = 3
LIKENESS = 0.5  # of difflib, from 0 to 1
COMPARED_IDS = 20_000  # at most; difflib takes about 10 us for each


class UnknownUserError(MmsrError):
    """The data know no user of that id, or nothing that the user bought."""


def find_user(dataset: Dataset, user: str) -> int:
    """Return the user's index; `UnknownUserError` if there is none or the history is empty."""
    ids = pa.array(dataset.user_ids(), pa.string())
    index: int = pc.index(ids, user).as_py()
    if index < 0:
        raise UnknownUserError(
            f"no user {user!r} among the {len(ids):,} of {dataset.folder}; {_advice(ids, user)}"
        )
    if dataset.offsets[index] == dataset.offsets[index + 1]:
        raise UnknownUserError(f"user {user!r} has no interactions in {dataset.folder}")
    return index


def _advice(ids: Any, user: str) -> str:
    near = _near(ids, user)
    if near:
        return f"near it: {', '.join(near)}"
    return f"ids look like this: {', '.join(ids[:NEAR_IDS].to_pylist())}"


def _near(ids: Any, user: str) -> list[str]:
    """Return the likest ids. One slip leaves the first or the second half of an id as it was."""
    user = user.strip()
    half = (len(user) + 1) // 2
    similar = pc.or_(
        pc.starts_with(ids, user[:half], ignore_case=True),
        pc.ends_with(ids, user[half:] or user, ignore_case=True),
    )
    compared = ids.filter(similar)[:COMPARED_IDS].to_pylist()
    return get_close_matches(user, compared, n=NEAR_IDS, cutoff=LIKENESS)
