"""`mmsr-bench encode`: real graphs and a real tokenizer, of nothing."""

from contextlib import AbstractContextManager, nullcontext
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from support.counting_encoders import publish_with_encoders
from support.tiny_bundle import Twin

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.encode_bench import (
    EncodeBench,
    in_turn,
    made_up_pictures,
    measure_encode,
)
from mmsr.engine.bench.engine_bench import Tick
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.runner_tables import print_encode


def no_progress(name: str, total_s: float) -> AbstractContextManager[Tick]:
    del name, total_s
    return nullcontext(lambda passed_s: None)


def bench_of(root: Path, images: Path | None = None) -> EncodeBench:
    return EncodeBench(
        repository=root, label="stable", batches=[1, 4], images=images, duration_s=0.1, threads=1
    )


def test_both_encoders_are_measured_whole_and_on_ready_tensors(tmp_path: Path) -> None:
    bundle_id = publish_with_encoders(tmp_path / "repository")
    report = measure_encode(bench_of(tmp_path / "repository"), no_progress)
    assert report.bundle_id == bundle_id
    assert [(run.encoder, run.batch) for run in report.runs] == [
        ("image_encoder", 1),
        ("image_encoder", 4),
        ("text_encoder", 1),
        ("text_encoder", 4),
    ]
    for run in report.runs:
        assert run.whole_per_s == pytest.approx(run.batch / run.whole_batch_ms * 1e3)
        assert run.share == pytest.approx(run.whole_per_s / run.ready_per_s)
    images = [run for run in report.runs if run.encoder == "image_encoder"]
    assert all(run.share < 0.5 for run in images)  # a mean costs less than decoding a JPEG
    out = StringIO()
    print_encode(Console(file=out, width=80), report)
    assert "…" not in out.getvalue()
    assert "image_encoder: made-up JPEG files of 500 x 500" in out.getvalue()


def test_a_shops_own_pictures_are_encoded(tmp_path: Path) -> None:
    publish_with_encoders(tmp_path / "repository")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(folder / f"{number}.png")
    report = measure_encode(bench_of(tmp_path / "repository", folder), no_progress)
    assert report.runs[0].items == "3 files of pictures"


def test_a_folder_without_pictures_is_one_line(tmp_path: Path) -> None:
    publish_with_encoders(tmp_path / "repository")
    with pytest.raises(BenchError, match=r"holds none of \*\.jpg"):
        measure_encode(bench_of(tmp_path / "repository", tmp_path), no_progress)


def test_a_bundle_without_encoders_is_one_line(repository: Repository, twin: Twin) -> None:
    del twin
    with pytest.raises(BenchError, match="has no encoders"):
        measure_encode(bench_of(repository.root), no_progress)


def test_made_up_pictures_are_photos_by_size() -> None:
    files = made_up_pictures()
    assert len(set(files)) == len(files) > 10
    for data in files:
        assert Image.open(BytesIO(data)).size == (500, 500)
        assert 5_000 < len(data) < 100_000


def test_both_ways_are_timed_in_turn_and_as_often() -> None:
    calls: list[str] = []
    in_turn(lambda: calls.append("whole"), lambda: calls.append("ready"), 0.001, lambda s: None)
    assert calls[:8] == ["whole", "ready", "ready", "whole"] * 2
    assert calls.count("whole") == calls.count("ready")
