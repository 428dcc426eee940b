"""Which precision is taken: the fastest that the gate lets pass, with what was measured."""

import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from support.tiny_bundle import Shop, publish

from mmsr.bundle.manifest import load_manifest
from mmsr.engine.precision import precision_of
from mmsr.export import choose_precision
from mmsr.export.choose_precision import prove_in_precision
from mmsr.export.gate import ParityError
from mmsr.export.precision import PrecisionError
from mmsr.export.precision_race import RACERS, Timed, by_speed, race, summary
from mmsr.export.report import precision_line

TIMES = {
    "fp32": Timed(gain=1.0, low=1.0, high=1.0),
    "int8": Timed(gain=1.3, low=1.2, high=1.4),
    "fp16": Timed(gain=2.0, low=1.6, high=2.4),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture
def copy(shop: Shop, tmp_path: Path) -> Path:
    shutil.copytree(shop.folder, tmp_path / "bundle")
    return tmp_path / "bundle"


def stage() -> AbstractContextManager[None]:
    return nullcontext()


def test_only_what_is_faster_beyond_doubt_comes_before_fp32() -> None:
    assert by_speed(TIMES) == ["fp16", "int8", "fp32"]
    doubtful = TIMES | {"fp16": Timed(gain=2.0, low=0.9, high=4.0)}
    assert by_speed(doubtful) == ["int8", "fp32"]
    absent = TIMES | {"int8": Timed(why_not="cannot be computed here")}
    assert by_speed(absent) == ["fp16", "fp32"]
    assert "int8 cannot be computed here" in summary(absent)
    assert "fp16 2.00 [1.60, 2.40]" in summary(absent)


def test_the_race_times_every_precision_within_its_budget(shop: Shop, tmp_path: Path) -> None:
    times = race(shop.folder, shop.folder / "sequence.onnx", tmp_path, budget_s=0.2)
    assert set(times) == set(RACERS)
    assert times["fp32"].gain == pytest.approx(1.0)
    for found in times.values():
        assert found.why_not or (found.low <= found.high and set(found.p50_ms) == {1, 8, 32})


class Gate:
    """Refuses some precisions, as the gate does."""

    def __init__(self, folder: Path, refuses: set[str]) -> None:
        self.folder, self.refuses, self.tried = folder, refuses, list[str]()

    def __call__(self) -> str:
        precision = precision_of(load_manifest(self.folder))
        self.tried.append(precision)
        if precision in self.refuses:
            raise ParityError(f"overlap of {precision}")
        return precision


def test_auto_goes_on_to_the_next_fastest_that_passes(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_precision, "race", lambda *_: TIMES)
    gate = Gate(copy, {"fp16"})
    assert prove_in_precision("auto", copy, gate, stage) == "int8"
    assert gate.tried == ["fp16", "int8"]
    record = load_manifest(copy).provenance["precision"]
    assert (record["asked"], record["sequence"]) == ("auto", "int8")
    assert record["refused"] == {"fp16": "overlap of fp16"}
    assert record["race"]["int8"]["gain"] == 1.3
    line = precision_line(record)
    assert line.startswith("sequence graph in int8: times as fast as fp32")
    assert "fp16 refused: overlap of fp16" in line


def test_what_was_asked_for_and_is_refused_is_not_replaced(copy: Path) -> None:
    gate = Gate(copy, {"int8"})
    with pytest.raises(ParityError, match="overlap of int8"):
        prove_in_precision("int8", copy, gate, stage)
    assert gate.tried == ["int8"]


def test_fp32_that_is_refused_is_the_end_of_auto(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_precision, "race", lambda *_: TIMES)
    gate = Gate(copy, set(TIMES))
    with pytest.raises(ParityError, match="overlap of fp32"):
        prove_in_precision("auto", copy, gate, stage)
    assert gate.tried == ["fp16", "int8", "fp32"]


def test_an_unknown_precision_is_refused_before_anything_is_written(copy: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    with pytest.raises(PrecisionError, match="'half'; expected one of fp32"):
        prove_in_precision("half", copy, Gate(copy, set()), stage)
    assert (copy / "manifest.json").read_bytes() == before
