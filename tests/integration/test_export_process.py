"""`mmsr-export` as a process: its exit codes, and two at once; killed in tests/faults."""

import json
import shutil
import sys
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image
from support.exporting import Exporting, answer_of, exporting, retrained
from support.whole import assert_triton_whole, assert_whole, folders, remains

from mmsr.bundle.files import read_json
from mmsr.bundle.repository import Repository
from mmsr.export import cli, triton
from mmsr.export.triton import write_triton

KILLS = 50
NOISE = 1e-6  # other weights, and so another bundle, as good as before
WORSE = 0.003  # of weights that begin at 0.02: beats popularity, is no match for the live bundle
KEPT = 3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    with exporting(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def worse(shop: Exporting) -> Path:
    """A run that ranks much worse than the live bundle, and better than popularity."""
    return retrained(shop.run, shop.root / "worse", seed=1, scale=WORSE)


def positions(repository: Repository) -> tuple[list[str], str]:
    """Return what there is and what is live."""
    return repository.ids(), repository.resolve("stable").name


def refused(shop: Exporting, repository: Repository, run: Path, *flags: str | Path) -> int:
    """Export in vain: nothing may change, one line says why; return the exit code."""
    before = positions(repository)
    process = shop.start(run, repository, *flags)
    code = process.code()
    said = process.output.read_text()
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1, said
    assert "Traceback" not in said
    assert positions(repository) == before
    assert remains(repository) == []
    return code


def test_code_0_moves_the_label(shop: Exporting, tmp_path: Path) -> None:
    repository = shop.copy(tmp_path / "repository")
    run = retrained(shop.run, tmp_path / "run", seed=2, scale=NOISE)
    answer = answer_of(shop.start(run, repository, "--json"))
    assert answer["live"] == {"stable": answer["bundle_id"]}
    assert positions(repository)[1] == answer["bundle_id"]
    assert answer["reused"] == ["sequence", "item", "explain", "image_encoder", "text_encoder"]


def test_code_1_is_any_other_error(shop: Exporting, tmp_path: Path) -> None:
    repository = shop.copy(tmp_path / "repository")
    assert refused(shop, repository, tmp_path / "no run") == 1
    assert refused(shop, repository, shop.run, "--label", "Not A Label") == 1
    file = tmp_path / "file"
    file.write_text("x")
    assert refused(shop, repository, shop.run, "--triton", file) == 1


@pytest.mark.parametrize(
    "flags", [("--max-drop", "101"), ("--max-drop", "five"), ("--precision", "fp64"), ("--what",)]
)
def test_code_2_is_wrong_usage(shop: Exporting, tmp_path: Path, flags: tuple[str, ...]) -> None:
    process = shop.start(shop.run, Repository(tmp_path / "repository"), *flags)
    assert process.code() == 2
    assert "Usage: mmsr-export" in process.output.read_text()
    assert not (tmp_path / "repository").exists()


def test_code_3_is_a_quality_below_the_live_bundles(
    shop: Exporting, worse: Path, tmp_path: Path
) -> None:
    repository = shop.copy(tmp_path / "repository")
    assert refused(shop, repository, worse) == 3
    assert refused(shop, repository, worse, "--max-drop", "5", "--json") == 3


def test_what_a_gate_measured_is_shown_and_printed_as_json_though_it_refuses(
    shop: Exporting, worse: Path, tmp_path: Path
) -> None:
    repository = shop.copy(tmp_path / "repository")
    process = shop.start(worse, repository, "--json")
    assert process.code() == 3
    lines = process.output.read_text().splitlines()
    told = json.loads(next(line for line in lines if line.startswith("{")))
    assert told["exit_code"] == 3
    assert f"error: {told['error']}" in lines
    assert told["quality"]["problems"][0] in told["error"]
    assert told["parity"]["sequence"]["overlap"] == 1.0
    process = shop.start(worse, repository)
    assert process.code() == 3
    shown = process.output.read_text()
    assert "overlap 1.0000" in shown
    assert f"live {repository.resolve('stable').name}" in shown


@pytest.mark.parametrize("what", ["no run", "a file where the repository should be made"])
def test_any_error_is_json_too_where_that_was_asked_for(
    shop: Exporting, tmp_path: Path, what: str
) -> None:
    (tmp_path / "file").write_text("x")
    run, root = (tmp_path / "run", tmp_path / "repository")
    if what != "no run":
        run, root = shop.run, tmp_path / "file" / "repository"
    process = shop.start(run, Repository(root), "--json")
    assert process.code() == 1
    lines = process.output.read_text().splitlines()
    told = json.loads(next(line for line in lines if line.startswith("{")))
    assert [*told] == ["error", "exit_code"]
    assert f"error: {told['error']}" in lines


def test_a_larger_drop_that_is_allowed_is_no_drop(
    shop: Exporting, worse: Path, tmp_path: Path
) -> None:
    repository = shop.copy(tmp_path / "repository")
    answer = answer_of(shop.start(worse, repository, "--max-drop", "99.5", "--json"))
    quality = repository.manifest(answer["bundle_id"]).provenance["quality"]
    assert quality["max_drop"] == pytest.approx(0.995)
    assert (quality["accept_drop"], quality["problems"]) == (False, [])
    assert quality["live"]["ndcg"]["ndcg"] < 0.95 * quality["live"]["ndcg"]["reference"]
    assert positions(repository)[1] == answer["bundle_id"]


def test_a_drop_that_is_accepted_is_recorded_and_said(
    shop: Exporting, worse: Path, tmp_path: Path
) -> None:
    repository = shop.copy(tmp_path / "repository")
    _, live = positions(repository)
    process = shop.start(worse, repository, "--accept-drop")
    assert process.code() == 0
    assert "accepted by --accept-drop: NDCG@10" in process.output.read_text()
    _, now = positions(repository)
    quality = repository.manifest(now).provenance["quality"]
    assert quality["accept_drop"] is True
    [problem] = quality["problems"]
    assert f"of the live bundle {live}" in problem


def test_code_4_is_a_bundle_that_does_not_answer_as_pytorch_does(
    shop: Exporting, tmp_path: Path
) -> None:
    repository = shop.copy(tmp_path / "repository")
    data = shutil.copytree(shop.root / "data", tmp_path / "data")
    for path in (data / "images").iterdir():
        Image.new("RGB", (24, 24), "red").save(path)  # other pictures than the features are of
    target = tmp_path / "triton"
    assert refused(shop, repository, shop.run, "--data", data, "--triton", target) == 4
    assert not target.exists()


def test_triton_is_written_and_the_next_night_is_its_next_version(
    shop: Exporting, tmp_path: Path
) -> None:
    repository, target = shop.copy(tmp_path / "repository"), tmp_path / "models" / "triton"
    for night in (1, 2):
        run = retrained(shop.run, tmp_path / f"run-{night}", seed=night, scale=NOISE)
        answer = answer_of(shop.start(run, repository, "--triton", target, "--json"))
        assert answer["seconds"]["triton"] > 0
        assert_triton_whole(target)
        assert folders(target) == ["image_encoder", "sequence", "text_encoder"]
        made_from = read_json(target / "sequence" / str(night) / "made_from.json", "")
        assert made_from["bundle_id"] == answer["bundle_id"] == positions(repository)[1]
    assert folders(target / "image_encoder") == ["1", "warmup"]  # the same in both
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["triton"]


def in_this_process(patch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run `mmsr-export` here, where something can be made to fail; return its exit code."""
    patch.setattr(sys, "argv", ["mmsr-export", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def full_disk(*_: object) -> NoReturn:
    raise OSError(ENOSPC, "No space left on device", "somewhere")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", [True, False])
def test_a_bundle_that_cannot_be_published_leaves_tritons_folder_as_it_was(
    shop: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    repository, target = shop.copy(tmp_path / "repository"), tmp_path / "models" / "triton"
    if there:
        write_triton(repository.resolve("stable"), target)
    before = (contents(tmp_path / "models"), positions(repository))
    run = retrained(shop.run, tmp_path / "run", seed=3, scale=NOISE)
    monkeypatch.setattr(Repository, "publish", full_disk)
    flags = ("--repository", repository.root, "--triton", target)
    assert in_this_process(monkeypatch, run, *flags) == 1
    assert (contents(tmp_path / "models"), positions(repository)) == before
    assert target.exists() == there
    assert remains(repository) == []


def test_models_that_cannot_be_put_in_place_leave_the_label_where_it_was(
    shop: Exporting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository, target = shop.copy(tmp_path / "repository"), tmp_path / "triton"
    ids, live = positions(repository)
    run = retrained(shop.run, tmp_path / "run", seed=3, scale=NOISE)
    monkeypatch.setattr(triton, "move_in", full_disk)
    flags = ("--repository", repository.root, "--triton", target)
    assert in_this_process(monkeypatch, run, *flags) == 1
    assert "error: somewhere: No space left on device" in capsys.readouterr().err
    assert repository.resolve("stable").name == live
    assert len(repository.ids()) == len(ids) + 1  # published, and named by nothing
    assert folders(target) == []
    assert not list(tmp_path.glob(".triton*"))


def test_two_at_once_do_not_corrupt_each_other(shop: Exporting, tmp_path: Path) -> None:
    """Two runs, and one run twice: whose bundle is one, written by both."""
    repository, target = shop.copy(tmp_path / "repository"), tmp_path / "triton"
    for night in range(3):
        runs = [
            retrained(shop.run, tmp_path / f"run-{night}-{place}", seed, NOISE)
            for place, seed in enumerate((night, night if night == 1 else 10 + night))
        ]
        flags = ("--triton", target, "--accept-drop", "--json")
        both = [shop.start(run, repository, *flags) for run in runs]
        ids = {answer_of(process)["bundle_id"] for process in both}
        assert len(ids) == (1 if night == 1 else 2)
        assert ids <= set(repository.ids())
        assert repository.resolve("stable").name in ids
        assert_whole(repository)
        assert_triton_whole(target)
        assert remains(repository) == []
    assert len(repository.ids()) == 1 + 5
    assert folders(target / "sequence") == ["4", "5", "warmup"]
