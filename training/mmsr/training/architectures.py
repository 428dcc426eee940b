"""Which class a recipe's `[model] architecture` names.

All are `SequentialRecommender`s: `config`, `items`, `item_encoder`, the call, `last` and `table`
are what training, evaluation and comparison use. Only "mmsr" itself can be exported.
"""

from mmsr.bundle.errors import MmsrError
from mmsr.training.baselines.dif_sr import DifSr
from mmsr.training.config import ModelConfig
from mmsr.training.model import SequentialRecommender

ARCHITECTURES: dict[str, type[SequentialRecommender]] = {
    "mmsr": SequentialRecommender,
    "dif-sr": DifSr,
}


class NotExportableError(MmsrError):
    """A run that was trained to be compared with, not to be served."""


def build_model(
    config: ModelConfig, items: int, feature_widths: dict[str, int]
) -> SequentialRecommender:
    """Return a new model of the recipe's architecture, with random weights."""
    return ARCHITECTURES[config.architecture](config, items, feature_widths)


def require_exportable(config: ModelConfig) -> None:
    """Raise `NotExportableError` for a baseline and for a control without true content."""
    if config.architecture != "mmsr":
        raise NotExportableError(
            f'a run with [model] architecture = "{config.architecture}" is a baseline to compare '
            'with and cannot be exported; export a run with architecture = "mmsr"'
        )
    for name, done in (("shuffle", "wrongly joined content"), ("noise", "noise for content")):
        if modalities := list(getattr(config, name)):
            raise NotExportableError(
                f"a run with [model] {name} = {modalities} is a control, trained on {done}, and "
                f"cannot be exported; train without {name}"
            )
