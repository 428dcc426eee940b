import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from mmsr.training.features.config import FeaturesConfig, FeaturesError
from mmsr.training.features.image_encoder import (
    ImageEncoder,
    load_image_encoder,
    restore_image_encoder,
)
from mmsr.training.features.specs import ImageEncoderSpec

# Measured 5e-7 relative for SqueezeNet at 32 pixels; other kernels add in another order.
RTOL = 1e-4


def config(**settings: object) -> FeaturesConfig:
    values = {"image_encoder": "squeezenet1_1", "image_size": 32, "random_weights": True}
    return FeaturesConfig(**{**values, **settings})  # type: ignore[arg-type]


def pixels(count: int, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def torchvision_model(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.get_model(name, weights=None).eval()  # type: ignore[no-any-return]


def normalised(batch: Tensor) -> Tensor:
    """ImageNet's mean and deviation by hand, [B, H, W, 3] to [B, 3, H, W]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((batch.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def test_normalisation_is_part_of_the_encoder() -> None:
    encoder = ImageEncoder(nn.Identity(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(encoder(pixels(2)), normalised(pixels(2)))


def test_alexnet_and_vgg_give_the_mean_of_the_last_map_or_the_second_hidden_layer() -> None:
    """On AlexNet, which has every layer that VGG has at half the size."""
    settings = {"image_encoder": "alexnet", "image_size": 64}
    gap, gap_spec = load_image_encoder(config(**settings))
    fc7, fc7_spec = load_image_encoder(config(**settings, image_layer="fc7"))
    assert (gap_spec.dim, fc7_spec.dim) == (256, 4096)
    layers = dict(fc7.body.named_modules())
    map_BCHW = layers["features"](normalised(pixels(2, 64)))
    torch.testing.assert_close(gap(pixels(2, 64)), map_BCHW.mean((2, 3)), rtol=RTOL, atol=1e-5)
    flat = layers["avgpool"](map_BCHW).flatten(1)
    expected = layers["classifier.4"](layers["classifier.1"](flat).relu()).relu()
    torch.testing.assert_close(fc7(pixels(2, 64)), expected, rtol=RTOL, atol=1e-5)
    assert (fc7(pixels(2, 64)) >= 0).all()


def test_gap_of_other_classifiers_is_what_their_last_layer_reads() -> None:
    encoder, spec = load_image_encoder(config(image_encoder="mobilenet_v3_small"))
    model = torchvision_model("mobilenet_v3_small")
    model.get_submodule("classifier")[3] = nn.Identity()  # type: ignore[operator]
    assert spec.dim == 1024
    torch.testing.assert_close(
        encoder(pixels(2)), model(normalised(pixels(2))), rtol=RTOL, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "size", "dim"),
    [
        ("resnet18", 32, 512),
        ("regnet_y_400mf", 32, 440),
        ("googlenet", 32, 1024),
    ],
)
def test_any_classifier_gives_a_finite_vector(name: str, size: int, dim: int) -> None:
    encoder, spec = load_image_encoder(config(image_encoder=name, image_size=size))
    features = encoder(pixels(2, size))
    assert (features.shape, features.dtype) == ((2, dim), torch.float32)
    assert spec.dim == dim
    assert features.isfinite().all()


def test_it_is_frozen_and_stays_so() -> None:
    encoder, _ = load_image_encoder(config())
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(pixels(1)).requires_grad


def test_random_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, first_spec = load_image_encoder(config())
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, second_spec = load_image_encoder(config())
    other, other_spec = load_image_encoder(config(random_seed=1))
    assert first_spec == second_spec
    assert first_spec.weights_source == "random:0"
    assert first_spec.cache_key != other_spec.cache_key
    assert torch.equal(first(pixels(1)), second(pixels(1)))
    assert not torch.equal(first(pixels(1)), other(pixels(1)))


def test_weights_are_named_by_content_however_they_are_stored(tmp_path: Path) -> None:
    state = torchvision_model("squeezenet1_1").state_dict()
    torch.save(state, tmp_path / "all.pth")
    features = {k: t.contiguous() for k, t in state.items() if k.startswith("features.")}
    save_file(features, tmp_path / "part.safetensors")
    specs = []
    for name in ("all.pth", "part.safetensors"):
        path = str(tmp_path / name)
        specs.append(load_image_encoder(config(image_weights=path, random_weights=False))[1])
    assert specs[0].weights_sha256 == specs[1].weights_sha256
    assert specs[0].cache_key == specs[1].cache_key
    assert specs[0].weights_source != specs[1].weights_source


def failing_loads(folder: Path) -> dict[str, tuple[Callable[[], FeaturesConfig], str]]:
    def weights(name: str, **settings: object) -> FeaturesConfig:
        return config(image_weights=str(folder / name), random_weights=False, **settings)

    return {
        "unknown name": (
            lambda: config(image_encoder="squeezenet"),
            "image_encoder 'squeezenet'; expected a classifier of torchvision",
        ),
        "no fc7": (
            lambda: config(image_layer="fc7"),
            "image_layer 'fc7': squeezenet1_1 has no such layer, only vgg* and alexnet have",
        ),
        "too small": (
            lambda: config(image_encoder="inception_v3", image_size=32),
            "image_size 32: inception_v3 cannot read images of 32x32 pixels",
        ),
        "not there": (lambda: weights("absent.pth"), "absent.pth not found"),
        "another kind": (lambda: weights("a.npz"), "expected a file ending in .safetensors"),
        "not torch": (lambda: weights("text.pth"), "text.pth are unreadable"),
        "not safetensors": (lambda: weights("text.safetensors"), "text.safetensors are unreadable"),
        "no state dict": (lambda: weights("list.pth"), "expected a state dict"),
        "a pickled object": (lambda: weights("object.pth"), "object.pth are unreadable"),
        "another encoder": (
            lambda: weights("part.safetensors", image_encoder="resnet18"),
            "do not fit this encoder: bn1.bias is missing",
        ),
        "another shape": (
            lambda: weights("shape.safetensors"),
            "features.0.bias is (3,), expected (64,)",
        ),
        "fc7 without a classifier": (
            lambda: weights(
                "alexnet.safetensors", image_encoder="alexnet", image_layer="fc7", image_size=64
            ),
            "hold no classifier (classifier.1.bias and 3 more are missing), which this image_layer",
        ),
    }


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    part = {
        k: t.contiguous()
        for k, t in torchvision_model("squeezenet1_1").state_dict().items()
        if k.startswith("features.")
    }
    save_file(part, folder / "part.safetensors")
    save_file(part | {"features.0.bias": torch.zeros(3)}, folder / "shape.safetensors")
    with torch.device("meta"):
        names = {k: t.shape for k, t in models.alexnet().state_dict().items() if "feat" in k}
    save_file({k: torch.zeros(s) for k, s in names.items()}, folder / "alexnet.safetensors")
    for name in ("text.pth", "text.safetensors", "a.npz"):
        (folder / name).write_text("these are no weights")
    torch.save([torch.zeros(1)], folder / "list.pth")
    torch.save({"a": re.compile("code")}, folder / "object.pth")
    return folder


@pytest.mark.parametrize("case", failing_loads(Path()))
def test_what_cannot_be_loaded_is_one_clear_message(case: str, weights_folder: Path) -> None:
    make, message = failing_loads(weights_folder)[case]
    with pytest.raises(FeaturesError) as error:
        load_image_encoder(make())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_can_be_had_nowhere_are_one_line_with_the_ways_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FeaturesError, match="no weights for squeezenet1_1: ") as error:
        load_image_encoder(config(random_weights=False))
    assert "--image-weights FILE" in str(error.value)
    assert "--random-weights" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_encoder_is_restored_from_its_description() -> None:
    encoder, spec = load_image_encoder(config())
    again = restore_image_encoder(ImageEncoderSpec.from_json(spec.to_json()))
    assert torch.equal(encoder(pixels(1)), again(pixels(1)))


def test_other_weights_than_described_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(torchvision_model("squeezenet1_1").state_dict(), path)
    _, spec = load_image_encoder(config(image_weights=str(path), random_weights=False))
    moved = path.rename(tmp_path / "moved.pth")
    with pytest.raises(FeaturesError, match=r"w\.pth not found"):
        restore_image_encoder(spec)
    restore_image_encoder(spec, moved)
    torch.save(torchvision_model("squeezenet1_1", seed=1).state_dict(), path)
    with pytest.raises(
        FeaturesError, match="the features were made with " + spec.weights_sha256[:16]
    ):
        restore_image_encoder(spec)
    with pytest.raises(FeaturesError, match="give the same weights"):
        restore_image_encoder(replace(spec, weights_source="random:5", weights_path=None))
