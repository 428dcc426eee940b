"""The settings that RecTools' published numbers were made with. Standard library only.

From blondered/bert4rec_repro, evaluation/configs/rectools/ml_1m.py (epochs, users, seed) and
recommenders/rectools/transformers.py (the model; most are RecTools' defaults). What it reports for
MovieLens-1M is NDCG@10 .1779 and Recall@10 .3058.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a run is begun with; only the number of epochs may grow afterwards."""

    width: int = 256
    blocks: int = 2
    heads: int = 4
    max_length: int = 100
    batch_size: int = 128
    dropout: float = 0.2
    learning_rate: float = 1e-3
    patience: int = 50  # epochs without a better Recall@10 of the validation users, unmasked
    validation_users: int = 2048  # drawn at random; everybody else's item is trained on
    seed: int = 32
    users: int | None = None  # only the first ones, to try it out


MAX_EPOCHS = 200
