"""The last step of an export: bundle and Triton's models in their places, the label moved."""

from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import LabelMovedError, Move, Repository
from mmsr.export.triton import StagedTriton


def publish_with(
    triton: StagedTriton | None, staged: Path, repository: Repository, to: Move | None
) -> str:
    """Publish the bundle and move the label; between the two, put Triton's models in place."""
    if triton is None:
        return repository.publish(staged, to)
    if to is not None:
        repository.require_unmoved(to)
    bundle_id = repository.publish(staged)
    with repository.hold(bundle_id) as published:
        triton.put_in_place(published)
        if to is not None:
            _promote_with_models(bundle_id, repository, to)
    return bundle_id


def _promote_with_models(bundle_id: str, repository: Repository, to: Move) -> None:
    """Move the label, unless it has moved just now: what is in place cannot be judged again."""
    try:
        repository.promote(bundle_id, to)
    except LabelMovedError as error:
        raise BundleError(
            f"bundle {bundle_id} is published and Triton's models are in place, but {error}"
        ) from None
