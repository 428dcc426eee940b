"""Reads a state dict from a file without running code from it, and names it by its content."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmsr.training.features.config import FeaturesError

SUFFIXES = (".safetensors", ".pth", ".pt")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors, .pth or .pt file.

    Raises `FeaturesError` when it is not there, of another kind, or damaged.
    """
    if path.suffix not in SUFFIXES:
        raise FeaturesError(f"weights {path}: expected a file ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FeaturesError(f"weights {path} not found; expected a file with image weights")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise FeaturesError(f"weights {path}: expected a state dict (names and tensors) in it")
    return dict(tensors)


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FeaturesError(f"weights {path} are unreadable ({error})") from None


# What torch's restricted unpickler raises on bytes that are no state dict.
_NO_PICKLE = (OSError, EOFError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *_NO_PICKLE) as error:
        reason = str(error).partition("\n")[0]
        raise FeaturesError(f"weights {path} are unreadable ({reason})") from None


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and values in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.data)
    return digest.hexdigest()
