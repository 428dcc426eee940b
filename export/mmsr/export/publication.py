"""The last step of an export: bundle and Triton's models in their places, the label moved."""

from collections.abc import Callable
from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import LabelMovedError, Move, Repository
from mmsr.export.refusal import RefusedError
from mmsr.export.triton import StagedTriton

JudgeAgain = Callable[[], Move]  # beside what the label names now; raises what the gate raises


def publish_with(
    triton: StagedTriton | None,
    staged: Path,
    repository: Repository,
    to: Move | None,
    again: JudgeAgain,
) -> str:
    """Publish the bundle and move the label; between the two, put Triton's models in place.

    Where the label was moved since the bundle was judged, it is judged `again`.
    """
    if triton is None:
        while True:
            try:
                return repository.publish(staged, to)
            except LabelMovedError:
                to = again()
    if to is not None:
        to = _unmoved(repository, to, again)
    bundle_id = repository.publish(staged)
    with repository.hold(bundle_id) as published:
        triton.put_in_place(published)
        if to is not None:
            _promote(bundle_id, repository, to, again)
    return bundle_id


def _unmoved(repository: Repository, to: Move, again: JudgeAgain) -> Move:
    while True:
        try:
            repository.require_unmoved(to)
        except LabelMovedError:
            to = again()
        else:
            return to


def _promote(bundle_id: str, repository: Repository, to: Move, again: JudgeAgain) -> None:
    while True:
        try:
            return repository.promote(bundle_id, to)
        except LabelMovedError:
            try:
                to = again()
            except RefusedError as error:
                raise BundleError(
                    f"bundle {bundle_id} is published and Triton's models are in place, but "
                    f"label {to.label!r} was moved meanwhile and stays where it is: {error}"
                ) from None
