import errno
from pathlib import Path

import pytest

from mmsr.training.dataset import DataError
from mmsr.training.prepare.output import refuse_overlap, staged_output


def write_data(folder: Path, content: str) -> None:
    (folder / "data.json").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged_output(out, force=False) as stage:
        write_data(stage, "new")
        assert not out.exists()
    assert names(out) == ["data.json"]
    assert names(out.parent) == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bad"), staged_output(tmp_path / "out", force=False):
        raise DataError("bad")
    assert names(tmp_path) == []


def test_prepared_data_are_replaced_by_force_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "features").mkdir(parents=True)
    (out / "features" / "image.npy").write_text("kept")
    (out / "sequences").mkdir()
    write_data(out, "old")
    with (
        pytest.raises(DataError, match="holds prepared data already; replace them with --force"),
        staged_output(out, force=False),
    ):
        raise AssertionError("must not come this far")
    with staged_output(out, force=True) as stage:
        write_data(stage, "new")
    assert names(out) == ["data.json", "features"]
    assert (out / "data.json").read_text() == "new"
    assert (out / "features" / "image.npy").read_text() == "kept"
    assert names(tmp_path) == ["out"]


def test_a_failed_replacement_leaves_the_old_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_data(out, "old")
    with pytest.raises(DataError, match="bad"), staged_output(out, force=True):
        raise DataError("bad")
    assert (out / "data.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(DataError, match="holds no prepared data; name another folder"),
        staged_output(out, force),
    ):
        raise AssertionError("must not come this far")
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(DataError, match="holds no prepared data"),
        staged_output(tmp_path / "file", force),
    ):
        raise AssertionError("must not come this far")
    assert names(out) == ["thesis.tex"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    with staged_output(tmp_path, force=False) as stage:
        write_data(stage, "new")
    assert names(tmp_path) == ["data.json"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="no space left for"),
        staged_output(tmp_path / "out", force=False),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="broken"), staged_output(tmp_path / "out", force=False):
        raise OSError(errno.EIO, "broken")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(DataError, match="cannot write to"),
        staged_output(tmp_path / "file" / "out", force=False),
    ):
        raise AssertionError("must not come this far")


def test_the_output_may_not_hold_the_input(tmp_path: Path) -> None:
    source = tmp_path / "out" / "source"
    refuse_overlap(source / "prepared", [source / "items.csv", source])
    for target in (source, tmp_path / "out"):
        with pytest.raises(DataError, match="lies inside"):
            refuse_overlap(target, [source / "items.csv"])
