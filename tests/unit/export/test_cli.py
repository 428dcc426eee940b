"""`mmsr-export` and `mmsr-repo` as a user types them."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Shop, make_twin, manifest_of, publish, seal

from mmsr.bundle.repository import Repository
from mmsr.export import cli, repo_cli

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def type_in(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command; it gives exit code, output and errors."""

    def run(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, out, err

    return run


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return publish(tmp_path / "repository")


def test_what_is_live_after_an_export_is_said_whether_or_not_a_label_moved() -> None:
    assert cli.live_now("stable", "new", "new") == "stable names it now"
    assert cli.live_now("stable", "new", "old") == "stable still names old: no label moved"
    assert cli.live_now("stable", "new", None) == "stable still names no bundle: no label moved"


def another(shop: Shop, name: str, wrong_tables: bool) -> str:
    """Add a second bundle; its tables may be those of another training."""
    folder = shop.root / "versions" / name
    shutil.copytree(shop.folder, folder)
    if wrong_tables:
        np.save(folder / "tables" / "item_inputs.npy", make_twin(shop.sizes, seed=9).inputs_CW)
    (folder / "manifest.json").unlink()
    seal(folder, manifest_of(shop.sizes))
    return name


def test_a_label_that_cannot_be_is_told_before_anything_is_done(
    tmp_path: Path, type_in: Command
) -> None:
    repository = tmp_path / "repository"
    flags = ("no-run", "--repository", repository, "--label", "Stable")
    code, _, err = type_in(cli.main, *flags)
    assert code == 1
    assert "label 'Stable' is not allowed" in err
    assert not repository.exists()


def test_verify_looks_at_every_bundle(shop: Shop, type_in: Command) -> None:
    wrong = another(shop, "0" * 16, wrong_tables=True)
    cut = another(shop, "1" * 16, wrong_tables=False)
    (shop.root / "versions" / cut / "probe.npz").unlink()
    code, out, err = type_in(repo_cli.main, "verify", shop.root)
    assert code == 1
    assert f"{shop.folder.name}: files as in the manifest; 40 probes, overlap@20 1.0000" in out
    assert f"{wrong}: ONNX Runtime CPUExecutionProvider does not answer like PyTorch" in err
    assert f"{cut}: " in err
    assert "probe.npz is missing" in err
    code, out, err = type_in(repo_cli.main, "verify", shop.root, shop.folder.name)
    assert (code, err) == (0, "")


def test_a_damaged_bundle_is_not_promoted(shop: Shop, type_in: Command) -> None:
    code, out, _ = type_in(repo_cli.main, "promote", shop.root, shop.folder.name, "--label", "beta")
    assert (code, out) == (0, f"beta is {shop.folder.name}\n")
    (shop.folder / "sequence.onnx").write_bytes(b"x")
    flags = ("promote", shop.root, shop.folder.name, "--label", "canary")
    code, _, err = type_in(repo_cli.main, *flags)
    assert code == 1
    assert "sequence.onnx: 1 bytes" in err
    assert Repository(shop.root).label_names() == ["beta", "stable"]
