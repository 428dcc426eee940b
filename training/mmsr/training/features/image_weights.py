"""Where an image encoder's weights come from: torchvision's hub, a local file, or a seed."""

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from mmsr.training.features.config import FeaturesConfig, NoWeightsError
from mmsr.training.features.specs import ImageEncoderSpec
from mmsr.training.features.weights import read_weights

NETWORK_TIMEOUT_S = 30.0

# Published DenseNet files carry names from before torchvision renamed the layers.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.(?=[a-z_]+$)")


@dataclass(frozen=True, kw_only=True)
class ImageWeights:
    """Tensors under torchvision's names, and where they come from."""

    tensors: dict[str, Tensor]
    source: str  # "hub:<name>", "file:<base name>" or "random:<seed>"
    path: Path | None = None


def weights_of_config(config: FeaturesConfig) -> ImageWeights:
    """Fetch the weights that `config` asks for; `FeaturesError` says what else one can do."""
    name = config.image_encoder
    if config.image_weights is not None:
        return file_weights(Path(config.image_weights).expanduser())
    if config.random_weights:
        return random_weights(name, config.image_size, config.random_seed)
    return hub_weights(name, models.get_model_weights(name).DEFAULT.name)


def weights_of_spec(spec: ImageEncoderSpec, path: Path | None) -> ImageWeights:
    """Fetch the weights that `spec` was made with; `path` names a file to take instead."""
    kind, _, name = spec.weights_source.partition(":")
    if path is not None or kind == "file":
        return file_weights(path or Path(spec.weights_path or name))
    if kind == "random":
        return random_weights(spec.encoder, spec.preprocess.size, int(name))
    return hub_weights(spec.encoder, name)


def file_weights(path: Path) -> ImageWeights:
    """Read a local state dict."""
    tensors = {_OLD_DENSENET.sub(r"\1\2.", k): t for k, t in read_weights(path).items()}
    return ImageWeights(tensors=tensors, source=f"file:{path.name}", path=path.resolve())


def random_weights(encoder: str, size: int, seed: int) -> ImageWeights:
    """Draw untrained weights; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.get_model(encoder, weights=None, **builder_options(encoder, size))
    return ImageWeights(tensors=model.state_dict(), source=f"random:{seed}")


def hub_weights(encoder: str, name: str) -> ImageWeights:
    """Take torchvision's own weights from its cache on this machine, or download them."""
    try:
        # Without a network torch still says "Downloading"; when there is one, its bar shows it.
        with _network_timeout(), redirect_stdout(StringIO()):
            model = models.get_model(encoder, weights=name)
    # RuntimeError: the download's hash is wrong, or an interrupted file lies in the cache.
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise NoWeightsError(
            f"no weights for {encoder}: they are not in torchvision's cache on this machine and "
            f"the download failed ({reason}); give a local file with --image-weights FILE, "
            "or use untrained ones with --random-weights"
        ) from None
    return ImageWeights(tensors=model.state_dict(), source=f"hub:{name}")


def builder_options(encoder: str, size: int) -> dict[str, Any]:
    """Return what a builder of torchvision must be told for images of `size` pixels a side."""
    if encoder in ("googlenet", "inception_v3"):
        return {"init_weights": True}  # left out, it warns
    if encoder.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if encoder.startswith("maxvit") else {}


@contextmanager
def _network_timeout() -> Iterator[None]:
    """Let a network that swallows packets fail; torchvision's downloads have no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
