"""Comparisons of encoders that published bundles have passed: the same bytes are not read twice.

An encoder holds no trained weight, and most nights bring no other pictures. A comparison follows
from the graph, its sampled inputs, the stored features and the runner: where all of them are what
an earlier export has compared, its outcome is taken.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnxruntime as ort

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sha256_file, sha256_json
from mmsr.bundle.manifest import GraphSpec
from mmsr.bundle.repository import Repository
from mmsr.engine.runners.base import AnyArray
from mmsr.export.encoder_weights import KnownWeights, known_weights
from mmsr.export.encoders import (
    TEXTS_CHECKED,
    TOKENIZER,
    EncoderCheck,
    sampled_images,
    sampled_texts,
)
from mmsr.export.initializers import digest_of, initializer_hashes
from mmsr.export.parity import THREADS
from mmsr.training.features.specs import TextEncoderSpec
from mmsr.training.features.store import open_features
from mmsr.training.run import TrainedRun

KnownChecks = Mapping[str, EncoderCheck]  # by `of`


@dataclass(frozen=True, kw_only=True)
class Known:
    """What earlier exports have compared of encoders: their answers, and their weights."""

    checks: KnownChecks = field(default_factory=dict)
    weights: KnownWeights = field(default_factory=dict)


def known_of(repository: Repository) -> Known:
    """Return what a repository's bundles have passed."""
    return Known(checks=known_checks(repository), weights=known_weights(repository))


def known_checks(repository: Repository) -> dict[str, EncoderCheck]:
    """Return the comparisons that the repository's bundles have passed, by what they read.

    Bundles that are damaged or of another format are passed over.
    """
    found: dict[str, EncoderCheck] = {}
    for bundle_id in repository.ids():
        with suppress(BundleError, TypeError):
            recorded = repository.manifest(bundle_id).provenance.get("encoder_checks", {})
            for check in (EncoderCheck(**value) for value in recorded.values()):
                measured_in = check.measured_in or bundle_id
                found.setdefault(check.of, replace(check, measured_in=measured_in))
    return found


def remembered(of: str, known: KnownChecks, measure: Callable[[], EncoderCheck]) -> EncoderCheck:
    """Return the known outcome of a comparison of these bytes, or measure."""
    return known[of] if of in known else replace(measure(), of=of)


def image_key(run: TrainedRun, folder: Path, graph: GraphSpec) -> str:
    """Hash what the image encoder's comparison reads; files that are gone count as such."""
    chosen, paths = sampled_images(run)
    stored = open_features(run.dataset).image
    assert stored is not None
    files = [sha256_file(path) if path.is_file() else None for path in paths]
    spec = run.info.features["image"]
    return _key(folder / graph.file, [files, spec], stored.values_ND[chosen])


def text_key(run: TrainedRun, folder: Path, graph: GraphSpec) -> str:
    """Hash what the text encoder's comparison reads."""
    chosen = sampled_texts(run, TEXTS_CHECKED)
    stored = open_features(run.dataset).text
    assert stored is not None
    spec = run.info.features["text"]
    fields = list(TextEncoderSpec.from_json(spec).text_fields)
    texts = run.dataset.item_table(fields).take(chosen).to_pylist()
    said = [sha256_file(folder / TOKENIZER), texts, spec]
    return _key(folder / graph.file, said, stored.values_ND[chosen])


def _key(graph: Path, said: list[Any], stored_nF: AnyArray) -> str:
    return sha256_json(
        [
            *(sha256_file(graph), digest_of(initializer_hashes(graph))),  # data may lie beside it
            *(ort.__version__, platform.machine(), platform.processor(), THREADS),
            *(str(stored_nF.shape), hashlib.sha256(stored_nF.tobytes()).hexdigest()),
            said,
        ]
    )
