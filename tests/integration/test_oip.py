"""The Open Inference Protocol by those who speak it: Triton's own client and load generator."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Shop
from support.tiny_encoders import LONGEST, SIDE, TOKENS, publish_with_encoders
from support.tree import ROOT

from benchmarks.perf_analyzer import UnavailableError, provide, write_requests

MODELS = ["recommender", "image_encoder", "text_encoder"]
Step = dict[str, Any]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_with_encoders(tmp_path_factory.mktemp("oip") / "repository")


@pytest.fixture(scope="module")
def server(shop: Shop) -> Iterator[Served]:
    with serving(shop.root) as served:
        yield served


def call(server: Served, *steps: Step) -> list[Any]:
    """Let tritonclient take the steps, in one process of its own."""
    program = ROOT / "tests" / "support" / "oip_client.py"
    done = subprocess.run(
        [sys.executable, str(program), server.target],
        input="".join(json.dumps(step) + "\n" for step in steps),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def recommend(history: list[list[str]], k: Any, **more: Any) -> Step:
    inputs = {"history": ["object", history], "k": ["int32", k]}
    return {"do": "infer", "model": "recommender", "inputs": inputs, **more}


def test_tritonclient_finds_the_models(server: Served) -> None:
    health, about, index = call(
        server, {"do": "health", "models": [*MODELS, "other"]}, {"do": "server"}, {"do": "index"}
    )
    ready = {**dict.fromkeys(MODELS, True), "other": False}
    assert health == [True, True, ready, [True, False]]
    assert about["name"] == "mmsr"
    assert {"model_configuration", "statistics"} <= set(about["extensions"])
    assert [(model["name"], model["state"]) for model in index["models"]] == [
        (name, "READY") for name in MODELS
    ]


def test_metadata_and_configuration_agree_but_for_the_batch(server: Served, shop: Shop) -> None:
    steps = [{"do": do, "model": model} for model in MODELS for do in ("metadata", "config")]
    found = call(server, *steps)
    for name, metadata, config in zip(MODELS, found[::2], found[1::2], strict=True):
        assert (metadata["name"], metadata["versions"]) == (name, ["1"])
        assert config["parameters"]["bundle"]["string_value"] == shop.folder.name
        for kind in ("input", "output"):
            tensors = {tensor["name"]: tensor for tensor in metadata[f"{kind}s"]}
            assert [t["name"] for t in config[kind]] == list(tensors)
            for tensor in config[kind]:
                assert ["-1", *tensor["dims"]] == tensors[tensor["name"]]["shape"]
    assert found[0]["inputs"][0] == {"name": "history", "datatype": "BYTES", "shape": ["-1", "-1"]}


def test_tritonclient_gets_the_recommendations_of_each_row(server: Served, shop: Shop) -> None:
    histories = [["item-1", "item-2", ""], ["item-5", "", ""], ["", "", ""]]
    (found,) = call(server, recommend(histories, [[3], [5], [2]]))
    for row, (history, k) in enumerate(zip(histories[:2], (3, 5), strict=True)):
        known = [item_id for item_id in history if item_id]
        expected = shop.twin.recommend(known, k, excluded=known)
        padding = 5 - k
        assert found["ids"][row] == [item_id for item_id, _ in expected] + [""] * padding
        scores = [score for _, score in expected]
        assert found["scores"][row][:k] == pytest.approx(scores, abs=1e-4)
        assert found["scores"][row][k:] == [float("-inf")] * padding
    assert found["ids"][2][:2] == shop.twin.popular(2)
    assert (found["id"], found["bundle"]) == ("r-1", shop.folder.name)


def test_one_k_may_hold_for_all_rows_and_one_output_may_be_asked_for(server: Served) -> None:
    whole, part = call(
        server,
        recommend([["item-1"], ["item-2"]], [[4], [4]]),
        recommend([["item-1"], ["item-2"]], [4], outputs=["scores"]),
    )
    assert part == {name: whole[name] for name in ("id", "bundle", "scores")}


def test_fewer_eligible_items_than_asked_for_are_padded(server: Served, shop: Shop) -> None:
    (found,) = call(server, recommend([["item-1"]], [1000]))
    eligible = len(shop.twin.recommend(["item-1"], 1000, excluded=["item-1"]))
    (ids,), (scores,) = found["ids"], found["scores"]
    assert 0 < eligible < len(ids) == len(scores) == 1000
    assert all(ids[:eligible])
    assert not any(ids[eligible:])
    assert set(scores[eligible:]) == {float("-inf")}


def test_a_request_may_say_whether_seen_items_come_back(server: Served, shop: Shop) -> None:
    without, with_seen = call(
        server,
        recommend([["item-4"]], [shop.sizes.items], parameters={"exclude_seen": True}),
        recommend([["item-4"]], [shop.sizes.items], parameters={"exclude_seen": False}),
    )
    assert set(with_seen["ids"][0]) - set(without["ids"][0]) == {"item-4"}


def test_tritonclient_encodes_images_and_texts(server: Served) -> None:
    pixels = [[[[value] * 3] * SIDE] * SIDE for value in (1, 200)]
    image = {"do": "infer", "model": "image_encoder", "inputs": {"pixels": ["uint8", pixels]}}
    tokens = {
        "input_ids": ["int64", [[3, 4], [9, 0]]],
        "attention_mask": ["int64", [[1, 1], [1, 0]]],
    }
    text = {"do": "infer", "model": "text_encoder", "inputs": tokens}
    images, texts = call(server, image, text)
    assert images["feature"] == [[1.0] * 3, [200.0] * 3]
    assert texts["feature"] == [[7.0, 2.0], [9.0, 1.0]]


def tokens_of(ids: list[int], mask: int = 1) -> Step:
    inputs = {"input_ids": ["int64", [ids]], "attention_mask": ["int64", [[mask] * len(ids)]]}
    return {"do": "infer", "model": "text_encoder", "inputs": inputs}


@pytest.mark.parametrize(
    ("step", "status", "text"),
    [
        (
            recommend([["item-1"]], [3]) | {"model": "other"},
            "NOT_FOUND",
            "Request for unknown model: 'other' is not found",
        ),
        ({"do": "metadata", "model": "other"}, "NOT_FOUND", "unknown model: 'other'"),
        ({"do": "config", "model": "other"}, "NOT_FOUND", "unknown model: 'other'"),
        ({"do": "statistics", "model": "other"}, "NOT_FOUND", "unknown model: 'other'"),
        (recommend([["item-1"]], [0]), "INVALID_ARGUMENT", "k is 0; expected 1 to 1000"),
        (recommend([["x" * 600]], [3]), "INVALID_ARGUMENT", "history holds an id of 600 bytes"),
        (recommend([["item-1"]], [[1], [2]]), "INVALID_ARGUMENT", "differ in their rows"),
        (recommend([["item-1"]] * 1025, [2]), "INVALID_ARGUMENT", "must be <= 1024"),
        (
            recommend([["item-1"]], [2], parameters={"label": "canary"}),
            "NOT_FOUND",
            "label 'canary' is not served here",
        ),
        (
            recommend([["item-1"]], [2], parameters={"label": 3}),
            "INVALID_ARGUMENT",
            "parameter 'label' is sent as int64_param; expected string_param",
        ),
        (recommend([["item-1"]], [2], timeout_us=1), "DEADLINE_EXCEEDED", "nothing was computed"),
        (tokens_of([TOKENS]), "INVALID_ARGUMENT", f"expected 0 to {TOKENS - 1}"),
        (tokens_of([-1]), "INVALID_ARGUMENT", "'input_ids' holds values from -1"),
        (tokens_of([1], mask=2), "INVALID_ARGUMENT", "'attention_mask' holds values from 2"),
        (tokens_of([1] * (LONGEST + 1)), "INVALID_ARGUMENT", f"expected 1 to {LONGEST} elements"),
    ],
)
def test_errors_are_statuses_as_tritons_are(
    server: Served, step: Step, status: str, text: str
) -> None:
    (found,) = call(server, step)
    assert found["status"] == f"StatusCode.{status}"
    assert text in found["text"]


def test_statistics_count_what_was_done(server: Served) -> None:
    steps: list[Step] = [{"do": "statistics", "model": "recommender"}]
    steps += [recommend([["item-1"], ["item-2"]], [3])] * 3
    steps += [recommend([["item-1"]], [0])]
    before, *_, after = call(server, *steps, steps[0])
    (old,), (new,) = before["model_stats"], after["model_stats"]

    def grown(*path: str) -> int:
        values = []
        for stats in (old, new):
            for name in path[:-1]:
                stats = stats.get(name, {})
            values.append(int(stats.get(path[-1], 0)))
        return values[1] - values[0]

    assert grown("inference_count") == 6
    assert 3 <= grown("execution_count") <= 6
    assert grown("inference_stats", "success", "count") == 3
    assert grown("inference_stats", "fail", "count") == 1
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    spent = [grown("inference_stats", part, "ns") for part in parts]
    assert all(grown("inference_stats", part, "count") == 3 for part in parts)
    assert spent[2] > 0
    assert sum(spent) <= grown("inference_stats", "success", "ns")


@pytest.fixture(scope="module")
def perf_analyzer() -> list[str]:
    default = Path.home() / ".cache" / "mmsr" / "perf-analyzer"
    try:
        return provide(Path(os.environ.get("MMSR_PERF_ANALYZER", default)))
    except UnavailableError as error:
        pytest.skip(f"perf_analyzer cannot be had here: {error}")


def profile(command: list[str], server: Served, folder: Path, *flags: str) -> list[Any]:
    """Let perf_analyzer measure; return the requests that it counts."""
    found = folder / "found.json"
    common = ["-u", server.target, "-i", "grpc", "--profile-export-file", str(found)]
    done = subprocess.run(
        [*command, *common, *flags], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (experiment,) = json.loads(found.read_text())["experiments"]
    requests: list[Any] = experiment["requests"]
    assert all(request["success"] for request in requests if "success" in request)
    return requests


@pytest.mark.slow
def test_perf_analyzer_measures_the_recommender(
    server: Served, perf_analyzer: list[str], tmp_path: Path
) -> None:
    requests = tmp_path / "requests.json"
    histories = [[f"item-{n}", f"item-{n + 1}"] for n in range(50)]
    write_requests(requests, histories, k=5)
    flags = ["-m", "recommender", "--concurrency-range", "3", "--request-count", "200"]
    sent = profile(perf_analyzer, server, tmp_path, *flags, "--input-data", str(requests))
    assert len(sent) >= 200


@pytest.mark.slow
def test_perf_analyzer_makes_up_requests_from_the_metadata_alone(
    server: Served, perf_analyzer: list[str], tmp_path: Path
) -> None:
    flags = ["-m", "image_encoder", "-b", "2", "--request-count", "50"]
    assert len(profile(perf_analyzer, server, tmp_path, *flags)) >= 50


@pytest.mark.slow
def test_perf_analyzer_takes_the_shape_of_a_history_from_its_flag(
    server: Served, perf_analyzer: list[str], tmp_path: Path
) -> None:
    """Its random ids are nobody's, its random k is out of range: k comes from a file."""
    only_k = tmp_path / "k.json"
    only_k.write_text(json.dumps({"data": [{"k": [4], "history": ["item-1"] * 6}]}))
    flags = ["-m", "recommender", "--shape", "history:6", "--input-data", str(only_k)]
    assert len(profile(perf_analyzer, server, tmp_path, *flags, "--request-count", "50")) >= 50
