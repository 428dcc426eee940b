"""The whole road with the real commands: a generated shop's files in, gRPC answers out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.agreement import overlaps, sample_histories
from support.commands import refuse, succeed
from support.serving import serving

from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.client import RecommenderClient
from mmsr.training.run import open_run

RECIPE = """
[features]
image_encoder = "squeezenet1_1"
image_size = 64
random_weights = true
max_tokens = 32

[model]
width = 32
side_width = 16
feedforward_width = 32
max_length = 20

[fit]
epochs = 2
batch_size = 64
learning_rate = 3e-3
"""


class Road:
    """The folders that the commands wrote, one after the other."""

    def __init__(self, root: Path) -> None:
        self.recipe = root / "recipe.toml"
        self.data = root / "data"
        self.run = root / "run"
        self.repository = root / "repository"


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    road = Road(tmp_path_factory.mktemp("road"))
    road.recipe.write_text(RECIPE)
    sizes = ("--items", "120", "--users", "250", "--seed", "3")
    succeed("mmsr-train", "prepare", "toy", road.data, *sizes)
    succeed("mmsr-train", "features", road.data, "--config", road.recipe)
    succeed("mmsr-train", "fit", road.recipe, "--data", road.data, "--out", road.run)
    succeed("mmsr-train", "evaluate", road.run, "--json", road.run / "metrics.json")
    # Two epochs do not always beat popularity, which is no matter here.
    succeed("mmsr-export", road.run, "--repository", road.repository, "--accept-drop")
    return road


@pytest.fixture
def bundle(road: Road) -> Path:
    return Repository(road.repository).resolve("stable")


def test_metrics_have_documented_keys(road: Road) -> None:
    metrics = json.loads((road.run / "metrics.json").read_text())["metrics"]
    assert {"test.masked.ndcg@10", "test.unmasked.recall@20", "popularity.masked.mrr@5"} <= set(
        metrics
    )
    assert all(0 <= value <= 1 for value in metrics.values())


def test_the_bundle_is_complete_and_proven(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert set(manifest.graphs) == {"sequence", "explain", "item", "image_encoder", "text_encoder"}
    names = {"tokenizer.json", "catalogue.parquet", "probe.npz", "tables/ids.npy"}
    assert names <= set(manifest.files)
    assert manifest.parity["sequence"]["overlap"] == 1.0
    assert manifest.parity["image_min_cosine"] > 0.9999
    assert manifest.parity["text_min_cosine"] > 0.9999
    assert manifest.metrics["test.masked.ndcg@10"] > 0
    assert manifest.parity["stored"]["table_rows"] == manifest.tables.items + 1
    quality = manifest.provenance["quality"]
    assert quality["accept_drop"] is True
    assert quality["popularity"]["users"] == manifest.parity["held_out"]["users"] > 0
    assert manifest.provenance["data_hash"]


def test_the_server_answers_as_pytorch_does(road: Road) -> None:
    trained = open_run(road.run, device=torch.device("cpu"))
    with serving(road.repository) as served:
        found = overlaps(trained, served.target, sample_histories(trained, 200), 20)
        assert min(found) == 1.0
        with RecommenderClient(served.target) as client:
            answer = client.recommend(["no such item"], 3)
            assert (answer.fallback, answer.unknown_ids) == ("popularity", 1)
            assert len(answer.items) == 3


def test_the_repository_can_be_listed_verified_and_rolled_back(
    road: Road, bundle: Path, tmp_path: Path
) -> None:
    listing = succeed("mmsr-repo", "list", road.repository).stdout
    assert bundle.name in listing
    assert "stable" in listing
    assert "overlap@20 1.0000" in succeed("mmsr-repo", "verify", road.repository).stdout
    assert "nothing to roll back to" in refuse("mmsr-repo", "rollback", road.repository)
    message = refuse("mmsr-repo", "promote", road.repository, "0123456789abcdef")
    assert bundle.name in message


def test_a_second_epoch_makes_a_second_bundle_that_can_be_rolled_back(
    road: Road, tmp_path: Path
) -> None:
    run, repository = tmp_path / "run", tmp_path / "repository"
    shutil.copytree(road.run, run)
    shutil.copytree(road.repository, repository)
    first = Repository(repository).resolve("stable").name
    fit = ("mmsr-train", "fit", road.recipe, "--data", road.data, "--out", run)
    succeed(*fit, "--resume", "--epochs", "6")
    export = ("mmsr-export", run, "--repository", repository, "--accept-drop", "--json")
    answer = json.loads(succeed(*export).stdout)
    second = answer["bundle_id"]
    assert answer["quality"]["live"]["bundle_id"] == first
    assert answer["quality"]["live"]["ndcg"]["users"] == answer["parity"]["held_out"]["users"]
    assert second != first
    assert Repository(repository).resolve("stable").name == second
    succeed("mmsr-repo", "rollback", repository)
    assert Repository(repository).resolve("stable").name == first


def test_features_of_other_images_are_refused_and_nothing_is_published(
    road: Road, tmp_path: Path
) -> None:
    data, repository = tmp_path / "data", tmp_path / "repository"
    shutil.copytree(road.data, data)
    shutil.copytree(road.repository, repository)
    for path in (data / "source").rglob("*.jpg"):
        Image.new("RGB", (64, 64), "red").save(path)  # the shop changed its pictures since
    before = (Repository(repository).ids(), Repository(repository).history("stable"))
    export = ("mmsr-export", road.run, "--repository", repository, "--data", data)
    assert "image_encoder.onnx: cosine" in refuse(*export)
    assert before == (Repository(repository).ids(), Repository(repository).history("stable"))
    assert not list(repository.glob(".staging-*"))


def test_a_resumed_run_needs_no_more_than_the_flag(road: Road) -> None:
    fit = ("mmsr-train", "fit", road.recipe, "--data", road.data, "--out", road.run)
    assert "go on with it by --resume" in refuse(*fit)
    assert "best epoch" in succeed(*fit, "--resume").stderr


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        path = bundle / name
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (spoil("sequence.onnx", lambda b: b[:-10]), "sequence.onnx"),
        (spoil("tables/item_outputs.npy", lambda b: b[:-1] + b"\x7f"), "item_outputs.npy"),
        (spoil("manifest.json", lambda b: b[: len(b) // 2]), "manifest.json"),
        (lambda bundle: (bundle / "catalogue.parquet").unlink(), "catalogue.parquet"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "manifest.json"),
    ],
    ids=["truncated graph", "flipped table", "half a manifest", "no catalogue", "no manifest"],
)
def test_a_damaged_bundle_is_refused_by_verify(
    road: Road, tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(road.repository, repository)
    damage(Repository(repository).resolve("stable"))
    assert named in refuse("mmsr-repo", "verify", repository)


def test_wrong_input_of_every_stage_is_one_clear_message(road: Road, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    recipe = tmp_path / "bad.toml"
    recipe.write_text("[model]\nwidht = 3\n")
    new = ("--data", road.data, "--out", tmp_path / "new")
    cases = [
        (("mmsr-train", "prepare", "table", nothing, tmp_path / "out"), "nothing"),
        (("mmsr-train", "features", nothing), "mmsr-train prepare"),
        (("mmsr-train", "fit", nothing, *new), "not found"),
        (("mmsr-train", "fit", recipe, *new), "unknown key 'widht'"),
        (("mmsr-train", "evaluate", nothing), "mmsr-train fit"),
        (("mmsr-export", nothing, "--repository", tmp_path / "r"), "mmsr-train fit"),
        (("mmsr-repo", "list", nothing), "not a repository"),
        (("mmsr-repo", "promote", road.repository, "x"), "no bundle 'x'"),
        (("mmsr-serve", "--repository", nothing, "--port", "0"), "not a repository"),
        (("mmsr-export", road.run, "--repository", road.recipe), str(road.recipe)),
        (("mmsr-train", "evaluate", road.run, "--json", tmp_path), str(tmp_path)),
        (("mmsr-serve", "--repository", road.repository, "--label", "beta"), "no label 'beta'"),
    ]
    for command, expected in cases:
        assert expected in refuse(*command), command
