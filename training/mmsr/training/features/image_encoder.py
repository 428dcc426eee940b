"""Frozen image encoders: torchvision's classifiers without their last layer.

`gap` is the pooled vector that the last layer reads; VGG, AlexNet and SqueezeNet pool nothing
before their classifiers, so there it is the mean over all positions of the last feature map
(VGG and AlexNet: after the last max-pooling). `fc7` is the output of VGG's or AlexNet's second
hidden layer, after its ReLU. Knows nothing of items, files of pictures or caching.
"""

from collections import OrderedDict
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torchvision import models

from mmsr.bundle.preprocess import ImagePreprocess
from mmsr.training.features.config import FeaturesConfig, FeaturesError
from mmsr.training.features.image_weights import (
    ImageWeights,
    builder_options,
    weights_of_config,
    weights_of_spec,
)
from mmsr.training.features.specs import RGB, ImageEncoderSpec
from mmsr.training.features.weights import sha256_tensors

# B images, H height, W width, C channels, D feature width
UNPOOLED = ("vgg", "alexnet", "squeezenet")  # their `features` end in a map, not in a vector
WITH_FC7 = ("vgg", "alexnet")
TRAINING_ONLY = ("aux1", "aux2", "AuxLogits")  # heads that GoogLeNet and Inception drop here


class ImageEncoder(nn.Module):
    """Frozen: it stays in evaluation mode and takes no gradient."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, body: nn.Module, mean: RGB, std: RGB) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean_C", torch.tensor(mean), persistent=False)
        self.register_buffer("std_C", torch.tensor(std), persistent=False)
        # Measured with VGG-16 on a CPU: 1.1 to 1.8 times the images/s of contiguous weights.
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Map RGB pixels uint8 [B, H, W, 3] to features float32 [B, D]."""
        scaled_BHWC = (pixels_BHWC.to(torch.float32) / 255 - self.mean_C) / self.std_C
        features_BD: Tensor = self.body(scaled_BHWC.permute(0, 3, 1, 2))
        return features_BD

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model around does."""
        return super().train(False)


def load_image_encoder(config: FeaturesConfig) -> tuple[ImageEncoder, ImageEncoderSpec]:
    """Build the encoder that `config` asks for.

    Raises `FeaturesError` when there is no such encoder or layer, when its weights cannot be had
    or do not fit, and when it cannot read images of that size.
    """
    name, size = config.image_encoder, config.image_size
    _check_name(name, config.image_layer)
    skeleton = _skeleton(name, size)
    known_names = set(skeleton.state_dict())
    body = _cut(skeleton, name, config.image_layer)
    dim = _probe(body, name, size)
    weights = weights_of_config(config)
    _fill(body, known_names, weights)
    mean, std = _normalisation(name)
    spec = ImageEncoderSpec(
        encoder=name,
        layer=config.image_layer,
        dim=dim,
        preprocess=ImagePreprocess(size=size),
        mean=mean,
        std=std,
        weights_source=weights.source,
        weights_path=None if weights.path is None else str(weights.path),
        weights_sha256=sha256_tensors(body.state_dict()),
    )
    return ImageEncoder(body, mean, std), spec


def restore_image_encoder(spec: ImageEncoderSpec, weights_path: Path | None = None) -> ImageEncoder:
    """Build the encoder that `spec` describes, its weights from `weights_path` if given.

    Raises `FeaturesError` when the weights found are not the ones that `spec` names.
    """
    _check_name(spec.encoder, spec.layer)
    skeleton = _skeleton(spec.encoder, spec.preprocess.size)
    known_names = set(skeleton.state_dict())
    body = _cut(skeleton, spec.encoder, spec.layer)
    weights = weights_of_spec(spec, weights_path)
    _fill(body, known_names, weights)
    found = sha256_tensors(body.state_dict())
    if found != spec.weights_sha256:
        raise FeaturesError(
            f"the weights of {spec.encoder} from {weights.path or weights.source} have the hash "
            f"{found[:16]}, the features were made with {spec.weights_sha256[:16]} "
            f"({spec.weights_source}); give the same weights, or make the features again"
        )
    return ImageEncoder(body, spec.mean, spec.std)


def _check_name(name: str, layer: str) -> None:
    known = models.list_models(module=models)
    if name not in known:
        close = ", ".join(get_close_matches(name, known)) or "vgg16, resnet50, mobilenet_v3_small"
        raise FeaturesError(
            f"image_encoder {name!r}; expected a classifier of torchvision by name, such as {close}"
        )
    if layer == "fc7" and not name.startswith(WITH_FC7):
        raise FeaturesError(
            f"image_layer 'fc7': {name} has no such layer, only vgg* and alexnet have; use 'gap'"
        )


def _skeleton(name: str, size: int) -> nn.Module:
    """Build the classifier without values, where torchvision can."""
    options = builder_options(name, size)
    try:
        try:
            with torch.device("meta"):
                model: nn.Module = models.get_model(name, weights=None, **options)
        except NotImplementedError:  # RegNet computes its widths with tensors
            model = models.get_model(name, weights=None, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _wrong_size(name, size, error) from None
    _drop_training_parts(model)
    return model.eval()


def _drop_training_parts(model: nn.Module) -> None:
    for name in TRAINING_ONLY:
        if hasattr(model, name):
            setattr(model, name, None)
    if hasattr(model, "transform_input"):
        # As torchvision's own weights expect.
        cast(Any, model).transform_input = True
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked = None


def _cut(model: nn.Module, name: str, layer: str) -> nn.Module:
    """Take the last layer off; what is left keeps torchvision's names."""
    if layer == "gap" and name.startswith(UNPOOLED):
        features = model.get_submodule("features")
        parts = {"features": features, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        return nn.Sequential(OrderedDict(parts)).eval()
    last = [path for path, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    parent, _, child = last.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _probe(body: nn.Module, name: str, size: int) -> int:
    """Return the width of the features."""
    device = next(body.parameters()).device
    try:
        with torch.no_grad():
            return int(body(torch.zeros(1, 3, size, size, device=device)).shape[1])
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _wrong_size(name, size, error) from None


def _wrong_size(name: str, size: int, error: Exception) -> FeaturesError:
    reason = str(error).partition("\n")[0]
    return FeaturesError(
        f"image_size {size}: {name} cannot read images of {size}x{size} pixels ({reason}); "
        "choose another size (most encoders were trained at 224)"
    )


def _fill(body: nn.Module, known_names: Collection[str], weights: ImageWeights) -> None:
    """Put the weights in; every one that the body needs must be there and fit."""
    found = {k: t for k, t in weights.tensors.items() if not k.endswith("num_batches_tracked")}
    state = body.state_dict()
    where = str(weights.path or weights.source)
    _check_names(set(state), set(found), known_names, where)
    for name, wanted in state.items():
        if wanted.shape != found[name].shape:
            raise FeaturesError(
                f"weights {where}: {name} is {tuple(found[name].shape)}, "
                f"expected {tuple(wanted.shape)}; is it a file of another encoder or image_size?"
            )
        state[name] = found[name].to(wanted.dtype)
    body.load_state_dict(state, assign=True)


def _check_names(
    needed: set[str], found: set[str], known_names: Collection[str], where: str
) -> None:
    missing, unknown = sorted(needed - found), sorted(found - set(known_names))
    unknown = [name for name in unknown if not name.startswith(TRAINING_ONLY)]
    if missing and all(name.startswith("classifier.") for name in missing):
        raise FeaturesError(
            f"weights {where} hold no classifier ({missing[0]} and {len(missing) - 1} more are "
            "missing), which this image_layer needs; use 'gap', or weights that have it"
        )
    if missing or unknown:
        example = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not part of it"
        raise FeaturesError(
            f"weights {where} do not fit this encoder: {example} ({len(missing)} tensors missing, "
            f"{len(unknown)} unknown); expected a torchvision state dict of this encoder"
        )


def _normalisation(name: str) -> tuple[RGB, RGB]:
    """Return mean and standard deviation of RGB / 255 as the encoder was trained with."""
    preset = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (tuple(map(float, values)) for values in (preset.mean, preset.std))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
