"""The frozen encoders: converted, and compared with the features that the model was trained on.

The comparison goes the whole way that a new item will go while serving: file bytes -> pixels ->
image_encoder.onnx, and text -> tokenizer.json -> text_encoder.onnx, without torch.
"""

# n items of one call, F features, T tokens

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from mmsr.bundle.compose import compose_text
from mmsr.bundle.manifest import GraphSpec
from mmsr.bundle.preprocess import ImageError, ImagePreprocess, load_pixels
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.convert import convert_image_encoder, convert_text_encoder
from mmsr.export.onnx_file import ExportError
from mmsr.export.parity import THREADS, difference
from mmsr.export.vectors import max_distance, min_cosine
from mmsr.training.features.specs import ImageEncoderSpec, TextEncoderSpec
from mmsr.training.features.store import ModalityFeatures, open_features
from mmsr.training.run import TrainedRun

if TYPE_CHECKING:  # they import torchvision and transformers
    from mmsr.training.features.image_encoder import ImageEncoder
    from mmsr.training.features.text_encoder import TextEncoder

TOKENIZER = "tokenizer.json"
IMAGES_CHECKED = 16
TEXTS_CHECKED = 64
SAMPLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class EncoderCheck:
    """How near an exported encoder is to the stored features."""

    of: str = ""  # SHA-256 of all that was read: graph, inputs, stored features
    measured_in: str | None = None  # the bundle whose export has measured it; None: this one

    items: int
    min_cosine: float | None
    max_distance: float = 0.0  # relative to the length of the stored feature
    max_abs_error: float = 0.0


def restore_image(spec: dict[str, Any]) -> "ImageEncoder":
    """Build the image encoder from the spec that the features were made with."""
    from mmsr.training.features.image_encoder import restore_image_encoder  # imports torchvision

    described = ImageEncoderSpec.from_json(spec)
    weights = Path(described.weights_path) if described.weights_path else None
    return restore_image_encoder(described, weights)


def restore_text(spec: dict[str, Any]) -> tuple["TextEncoder", str]:
    """Build the text encoder, and return its tokenizer as JSON."""
    from mmsr.training.features.text_encoder import (  # imports transformers
        restore_text_encoder,
        tokenizer_json,
    )

    encoder, tokenizer = restore_text_encoder(TextEncoderSpec.from_json(spec))
    return encoder, tokenizer_json(tokenizer)


def restore_encoder(graph: str, spec: dict[str, Any]) -> nn.Module:
    """Build the encoder that a graph of that name is made of."""
    return restore_image(spec) if graph == "image_encoder" else restore_text(spec)[0]


def write_image(spec: dict[str, Any], path: Path) -> GraphSpec:
    """Write image_encoder.onnx from the spec that the features were made with."""
    size = ImageEncoderSpec.from_json(spec).preprocess.size
    return convert_image_encoder(restore_image(spec), size, path)


def write_text(spec: dict[str, Any], path: Path) -> GraphSpec:
    """Write text_encoder.onnx and, beside it, tokenizer.json."""
    encoder, tokenizer = restore_text(spec)
    (path.parent / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    return convert_text_encoder(encoder, TextEncoderSpec.from_json(spec).max_tokens, path)


def sampled_images(run: TrainedRun) -> tuple[npt.NDArray[np.int64], list[Path]]:
    """Return the places of some items that have a picture, counted from 0, and their files."""
    stored = open_features(run.dataset).image
    assert stored is not None
    files = run.dataset.item_table(["image"])["image"].to_pylist()
    chosen = _sample(stored.present_N, IMAGES_CHECKED)
    return chosen, [run.dataset.image_root / files[index] for index in chosen]


def check_image(run: TrainedRun, path: Path, graph: GraphSpec) -> EncoderCheck:
    """Encode some items' image files through the exported graph."""
    spec = ImageEncoderSpec.from_json(run.info.features["image"])
    stored = open_features(run.dataset).image
    assert stored is not None
    chosen, paths = sampled_images(run)
    pixels = read_sample(paths, spec.preprocess)
    kept = chosen[list(pixels)]
    runner = open_onnx(path, graph, threads=THREADS)
    found_nF = np.concatenate([runner.run({"pixels": p[None]})["feature"] for p in pixels.values()])
    runner.close()
    return _checked(found_nF, stored.values_ND[kept])


def _checked(found_nF: npt.NDArray[np.float32], stored_nF: npt.NDArray[np.float32]) -> EncoderCheck:
    return EncoderCheck(
        items=len(found_nF),
        min_cosine=min_cosine(found_nF, stored_nF),
        max_distance=max_distance(found_nF, stored_nF),
        max_abs_error=difference(found_nF, stored_nF).max_abs_error,
    )


def read_sample(
    paths: Sequence[Path], preprocess: ImagePreprocess
) -> dict[int, npt.NDArray[np.uint8]]:
    """Return the pixels of the images that can be read, by their places in `paths`.

    Some may have gone since the features were made: `ExportError` if more than half have.
    """
    pixels = {}
    problem = ""
    for place, path in enumerate(paths):
        try:
            pixels[place] = load_pixels(path.read_bytes(), preprocess)
        except (OSError, ImageError) as error:
            problem = problem or f"{path}: {error}"
    if not pixels or 2 * len(pixels) < len(paths):
        raise ExportError(
            f"only {len(pixels)} of {len(paths)} sampled images are readable any more, too few to "
            f"check the image encoder ({problem}); put the images back"
        )
    return pixels


def check_text(run: TrainedRun, folder: Path, graph: GraphSpec) -> EncoderCheck:
    """Encode some items' texts through the exported tokenizer and graph."""
    chosen = sampled_texts(run, TEXTS_CHECKED)
    found_nF = encode_texts(run, folder, graph, chosen)
    return _checked(found_nF, _stored_texts(run).values_ND[chosen])


def sampled_texts(run: TrainedRun, most: int) -> npt.NDArray[np.int64]:
    """Return the places of some items that have a text, counted from 0."""
    return _sample(_stored_texts(run).present_N, most)


def encode_texts(
    run: TrainedRun, folder: Path, graph: GraphSpec, chosen_n: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return the features [n, F] of these items' texts by the exported tokenizer and graph."""
    from tokenizers import Tokenizer

    spec = TextEncoderSpec.from_json(run.info.features["text"])
    items = run.dataset.item_table(list(spec.text_fields)).take(chosen_n).to_pylist()
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    texts = [compose_text(item, spec.text_fields) for item in items]
    runner = open_onnx(folder / graph.file, graph, threads=THREADS)
    parts = []
    for begin in range(0, len(texts), TEXTS_CHECKED):
        encoded = tokenizer.encode_batch(texts[begin : begin + TEXTS_CHECKED])
        batch = {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
        }
        parts.append(runner.run(batch)["feature"])
    runner.close()
    return np.concatenate(parts)


def _stored_texts(run: TrainedRun) -> ModalityFeatures:
    stored = open_features(run.dataset).text
    assert stored is not None
    return stored


def _sample(present_N: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.int64]:
    present = np.flatnonzero(present_N)
    if len(present) <= most:
        return present
    chosen = np.random.default_rng(SAMPLE_SEED).choice(present, most, replace=False)
    return np.sort(chosen)
