import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from mmsr.bundle.errors import MmsrError
from mmsr.training.dataset import Dataset
from mmsr.training.features.cli import features
from mmsr.training.features.config import FeaturesConfig

app = typer.Typer(add_completion=False)
app.command()(features)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def settings(dataset: Dataset) -> dict[str, object]:
    raw = json.loads((dataset.folder / "features" / "features.json").read_text())
    found: dict[str, object] = raw["settings"]
    return found


@pytest.fixture
def shop(make_shop: Callable[..., Dataset], draw: Callable[..., Path]) -> Dataset:
    draw("a.png")
    (draw("b.png").parent / "b.png").write_bytes(b"no picture")
    return make_shop([{"image": "a.png", "title": "a"}, {"image": "b.png"}])


def test_flags_win_over_the_recipe_and_a_table_is_printed(shop: Dataset, tmp_path: Path) -> None:
    recipe = tmp_path / "c.toml"
    recipe.write_text(
        "[features]\nimage_encoder = 'squeezenet1_1'\nimage_weights = 'w.pth'\nmax_tokens = 9\n"
    )
    flags = ("--random-weights", "--image-size", 32, "--workers", 1, "--text-fields", "title,brand")
    result = run(shop.folder, "--config", recipe, *flags)
    assert result.exit_code == 0, result
    rows = [re.findall(r"[\w./-]+", line) for line in result.stdout.splitlines()]
    rows = [row for row in rows if row]
    assert rows[0] == ["items", "present", "encoded", "cached", "broken", "items/s", "seconds"]
    assert rows[1][:6] == ["image", "2", "1", "1", "0", "1"]
    assert rows[2][:6] == ["text", "2", "1", "1", "0", "0"]
    assert "1 image could not be used: see " in result.stdout
    assert result.stdout.endswith("rejected.jsonl\n")
    used = settings(shop)
    assert (used["image_encoder"], used["image_size"], used["max_tokens"]) == (
        "squeezenet1_1",
        32,
        9,
    )
    assert (used["random_weights"], used["image_weights"]) == (True, None)
    assert used["text_fields"] == ["title", "brand"]


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        (None, ("--image-layer", "fc6"), "image_layer 'fc6'; expected one of gap, fc7"),
        (None, ("--text-fields", "price"), "text_fields ['price']"),
        (None, ("--config", "absent.toml"), "absent.toml not found; expected a recipe in TOML"),
        ("a = [", (), "is unreadable"),
        ("features = 3", (), "features is 3; expected a table [features]"),
        ("[features]\nspeed = 3", (), "c.toml [features]: unknown key 'speed'; known keys: image_"),
        ("[model]\nwidth = 3", (), "holds no prepared data"),
    ],
)
def test_bad_input_is_one_clear_message(
    tmp_path: Path, recipe: str | None, flags: tuple[str, ...], message: str
) -> None:
    if recipe is not None:
        (tmp_path / "c.toml").write_text(recipe)
        flags = ("--config", str(tmp_path / "c.toml"))
    result = run(tmp_path / "data", *flags)
    assert isinstance(result.exception, MmsrError), result.output
    assert message in str(result.exception)


def test_every_setting_has_a_flag_of_its_name() -> None:
    text = run("--help").output
    flags = set(re.findall(r"--[a-z-]+", text))
    expected = {"--" + name.replace("_", "-") for name in vars(FeaturesConfig())}
    assert flags == expected | {"--config", "--no-random-weights", "--prune-cache", "--help"}


HELP = """
import sys
for heavy in ("torch", "torchvision", "transformers", "PIL", "safetensors", "tokenizers"):
    sys.modules[heavy] = None
import typer
from mmsr.training.features.cli import features
app = typer.Typer()
app.command()(features)
app(["--help"])
"""


def test_help_needs_no_extra() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--image-encoder" in result.stdout
