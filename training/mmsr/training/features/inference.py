"""Runs a frozen encoder on arrays: on the GPU where there is one, always in full float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mmsr.training.features.config import FeaturesError


def pick_device() -> torch.device:
    """Return the first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep cuDNN from TF32, its default: stored features must be what the CPU would answer."""
    convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def encode(encoder: nn.Module, *inputs: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return the encoder's answer to a batch, float32 [B, D], on the device its weights are on.

    Raises `FeaturesError` when a value is not finite.
    """
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        answer = encoder(*(torch.from_numpy(array).to(device) for array in inputs))
    features_BD: npt.NDArray[np.float32] = answer.cpu().numpy()
    if not np.isfinite(features_BD).all():
        raise FeaturesError(
            f"the {type(encoder).__name__} answers values that are not finite; "
            "are its weights damaged, or of half precision?"
        )
    return features_BD
