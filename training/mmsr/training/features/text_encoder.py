"""Frozen text encoders: any BERT-family model of transformers, pooled to one vector a text.

What training and serving must agree on is made here: the pooling, and the tokenizer as one JSON
text for the `tokenizers` library. Knows nothing of items or caching.
"""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from mmsr.training.features.config import FeaturesConfig, FeaturesError
from mmsr.training.features.specs import TextEncoderSpec
from mmsr.training.features.text_source import TextSource, source_of_config, source_of_spec
from mmsr.training.features.weights import sha256_tensors

# B texts, T tokens, D feature width


class TextEncoder(nn.Module):
    """Frozen: it stays in evaluation mode and takes no gradient. The answer is not normalised."""

    def __init__(self, body: nn.Module, pool: str) -> None:
        super().__init__()
        self.body = body
        self.pool = pool
        self._segments = "token_type_ids" in inspect.signature(body.forward).parameters
        self.requires_grad_(False)
        self.eval()

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Map token ids and mask int64 [B, T] (1 = a token) to features float32 [B, D]."""
        segments = {"token_type_ids": torch.zeros_like(input_ids_BT)} if self._segments else {}
        output = self.body(input_ids=input_ids_BT, attention_mask=attention_mask_BT, **segments)
        if self.pool == "pooler":
            pooled_BD: Tensor = output.pooler_output
            return pooled_BD
        hidden_BTD: Tensor = output.last_hidden_state
        if self.pool == "cls":
            return hidden_BTD[:, 0]
        mask_BT1 = attention_mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model around does."""
        return super().train(False)


def load_text_encoder(
    config: FeaturesConfig,
) -> tuple[TextEncoder, PreTrainedTokenizerBase, TextEncoderSpec]:
    """Build encoder and tokenizer; the tokenizer's `model_max_length` is `max_tokens`.

    Raises `FeaturesError` when they cannot be had, or are of no kind that this release can use.
    """
    source = source_of_config(config.text_encoder)
    encoder, tokenizer = _load(source, config.text_pool, config.max_tokens)
    spec = TextEncoderSpec(
        encoder=source.encoder,
        source=source.source,
        path=source.path,
        dim=_probe(encoder, tokenizer, source.encoder),
        pool=config.text_pool,
        max_tokens=config.max_tokens,
        text_fields=config.text_fields,
        weights_sha256=sha256_tensors(encoder.body.state_dict()),
        tokenizer_sha256=_sha256(tokenizer_json(tokenizer)),
    )
    return encoder, tokenizer, spec


def restore_text_encoder(spec: TextEncoderSpec) -> tuple[TextEncoder, PreTrainedTokenizerBase]:
    """Build the encoder and tokenizer that `spec` describes.

    Raises `FeaturesError` when what is found now is not what the features were made with.
    """
    source = source_of_spec(spec)
    encoder, tokenizer = _load(source, spec.pool, spec.max_tokens)
    found = {
        "weights": sha256_tensors(encoder.body.state_dict()),
        "tokenizer": _sha256(tokenizer_json(tokenizer)),
    }
    for what, expected in (("weights", spec.weights_sha256), ("tokenizer", spec.tokenizer_sha256)):
        if found[what] != expected:
            raise FeaturesError(
                f"the {what} of text encoder {spec.encoder} ({spec.source}) have the hash "
                f"{found[what][:16]}, the features were made with {expected[:16]}; "
                "bring the same model back, or make the features again"
            )
    return encoder, tokenizer


def tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer for `tokenizers.Tokenizer.from_str`.

    It cuts to the tokenizer's `model_max_length` and pads a batch to its longest text, and gives
    the ids that `tokenizer(texts, truncation=True, padding=True)` gives.
    """
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    own.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    return str(own.to_str())


def _load(
    source: TextSource, pool: str, max_tokens: int
) -> tuple[TextEncoder, PreTrainedTokenizerBase]:
    with _quiet():
        # A model's own code is neither run nor asked for, whoever sits at the terminal.
        tokenizer = source.fetch(AutoTokenizer.from_pretrained, trust_remote_code=False)
        body, report = source.fetch(
            AutoModel.from_pretrained,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="sdpa",  # exports to ONNX as well as "eager" does
            output_loading_info=True,
        )
    _check_tokenizer(tokenizer, source.encoder)
    _check_length(tokenizer, body.config, source.encoder, max_tokens)
    tokenizer.model_max_length = max_tokens
    _take_pooler(body, report["missing_keys"], source.encoder, pool)
    return TextEncoder(body, pool), tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not tokenizer.is_fast or tokenizer.pad_token is None or tokenizer.padding_side != "right":
        raise FeaturesError(
            f"text encoder {name}: its tokenizer ({type(tokenizer).__name__}) has no JSON form, "
            "no padding token or pads on the left; expected a model of the BERT family"
        )


def _check_length(
    tokenizer: PreTrainedTokenizerBase, config: Any, name: str, max_tokens: int
) -> None:
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    longest = min(limit for limit in limits if limit is not None)
    if max_tokens > longest:
        raise FeaturesError(
            f"max_tokens {max_tokens}: text encoder {name} reads at most {longest} tokens"
        )


def _take_pooler(body: Any, missing: set[str], name: str, pool: str) -> None:
    """Drop a pooler that nothing reads; refuse weights that would be left random."""
    if pool != "pooler" and "add_pooling_layer" in inspect.signature(type(body)).parameters:
        body.pooler = None
        missing = {key for key in missing if not key.startswith("pooler.")}
    if missing:
        raise FeaturesError(
            f"text encoder {name}: {len(missing)} tensors are not among its weights, such as "
            f"{min(missing)}; expected a complete model (and text_pool 'pooler' needs a pooler)"
        )
    if pool == "pooler" and getattr(body, "pooler", None) is None:
        raise FeaturesError(
            f"text_pool 'pooler': text encoder {name} ({type(body).__name__}) has no pooler; "
            "use 'mean' or 'cls'"
        )


def _probe(encoder: TextEncoder, tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Return the width of the features, found by encoding one word."""
    tokens = tokenizer(["text"], return_tensors="pt")
    try:
        features_BD = encoder(tokens["input_ids"], tokens["attention_mask"])
    except (TypeError, ValueError, AttributeError) as error:
        raise FeaturesError(
            f"text encoder {name} ({type(encoder.body).__name__}) cannot be used ({error}); "
            "expected an encoder of the BERT family"
        ) from None
    return int(features_BD.shape[1])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' advice and progress bars off the terminal; errors are exceptions."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
