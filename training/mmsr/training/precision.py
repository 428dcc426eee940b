"""Which number format the blocks are trained in."""

import torch


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the format for [fit] precision; "auto" is bfloat16 on GPUs that compute with it.

    Weights, item rows, losses and optimizer are float32 in any case.
    """
    if precision == "auto":
        low = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        low = precision == "bf16"
    return torch.bfloat16 if low else torch.float32
