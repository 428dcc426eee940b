"""The text stage: every distinct text of a data set through the encoder, once ever."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from mmsr.bundle.compose import compose_text
from mmsr.training.dataset import Dataset
from mmsr.training.features.cache import NO_KEY, FeatureCache, Keys, contains
from mmsr.training.features.config import FeaturesConfig
from mmsr.training.features.inference import encode, full_precision, pick_device
from mmsr.training.features.modality import Encoded, Stage
from mmsr.training.features.progress import progress_bar
from mmsr.training.features.text_encoder import TextEncoder, load_text_encoder, tokenizer_json

ITEMS_AT_ONCE = 8192  # read from items.parquet
TEXTS_AT_ONCE = 4096  # sorted by length together, so that a batch pads little

Text = tuple[bytes, str]  # content hash, text
Ids = npt.NDArray[np.int64]


def text_stage(dataset: Dataset, config: FeaturesConfig, cache: Path, show: bool) -> Stage:
    """Encode what `cache` does not hold yet; without any text no encoder is loaded."""
    start_s = time.monotonic()
    keys_N = _item_keys(dataset, config.text_fields)
    result = None
    if (keys_N != NO_KEY).any():
        result = _encode(dataset, keys_N, config, cache, show)
    return Stage(items=len(keys_N), result=result, seconds=time.monotonic() - start_s)


def _texts(dataset: Dataset, fields: Sequence[str]) -> Iterator[str]:
    """Yield every item's text, in item order, reading the table in pieces."""
    with pq.ParquetFile(dataset.folder / "items.parquet") as file:
        for batch in file.iter_batches(ITEMS_AT_ONCE, columns=list(fields)):
            for item in batch.to_pylist():
                yield compose_text(item, fields)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _item_keys(dataset: Dataset, fields: Sequence[str]) -> Keys:
    keys = (_key(text) if text else NO_KEY for text in _texts(dataset, fields))
    return np.fromiter(keys, dtype="S32", count=dataset.info.items)


def _encode(
    dataset: Dataset, keys_N: Keys, config: FeaturesConfig, folder: Path, show: bool
) -> Encoded:
    encoder, tokenizer, spec = load_text_encoder(config)
    cache = FeatureCache(folder / spec.cache_key, spec.dim)
    rows = _rows_to_encode(keys_N, cache.keys())
    encoder.to(pick_device())
    batches = _Batches(tokenizer_json(tokenizer), config.text_batch)
    try:
        with progress_bar("texts", len(rows), show and len(rows) > 0) as advance, full_precision():
            texts = _chosen(_texts(dataset, config.text_fields), set(rows.tolist()))
            while chunk := list(islice(texts, TEXTS_AT_ONCE)):
                _encode_chunk(chunk, encoder, cache, batches, advance)
    finally:
        cache.flush()
    return Encoded(spec=spec, cache=cache, keys_N=keys_N, encoded=len(rows))


def _rows_to_encode(keys_N: Keys, cached: Keys) -> npt.NDArray[np.int64]:
    """Return the first item of every distinct text that is not cached."""
    keys_U, firsts_U = np.unique(keys_N, return_index=True)
    new_U = (keys_U != NO_KEY) & ~contains(cached, keys_U)
    return np.asarray(firsts_U[new_U], np.int64)


def _chosen(texts: Iterator[str], rows: set[int]) -> Iterator[Text]:
    return ((_key(text), text) for row, text in enumerate(texts) if row in rows)


def _encode_chunk(
    chunk: list[Text],
    encoder: TextEncoder,
    cache: FeatureCache,
    batches: "_Batches",
    advance: Callable[[int], None],
) -> None:
    for members, ids_BT, mask_BT in batches.of([text for _, text in chunk]):
        cache.add([chunk[member][0] for member in members], encode(encoder, ids_BT, mask_BT))
        advance(len(members))


class _Batches:
    """Texts to batches of token ids, texts of like length together."""

    def __init__(self, tokenizer: str, size: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer)
        padding: Any = self._tokenizer.padding
        self._pad_id = int(padding["pad_id"])
        self._tokenizer.no_padding()
        self._size = size

    def of(self, texts: list[str]) -> Iterator[tuple[list[int], Ids, Ids]]:
        """Yield positions in `texts`, and their token ids and mask, int64 [B, T]."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda position: len(ids[position]))
        for start in range(0, len(order), self._size):
            members = order[start : start + self._size]
            yield members, *self._pad([ids[member] for member in members])

    def _pad(self, ids: list[list[int]]) -> tuple[Ids, Ids]:
        shape = (len(ids), max(map(len, ids)))
        ids_BT = np.full(shape, self._pad_id, np.int64)
        mask_BT = np.zeros(shape, np.int64)
        for row, own in enumerate(ids):
            ids_BT[row, : len(own)] = own
            mask_BT[row, : len(own)] = 1
        return ids_BT, mask_BT
