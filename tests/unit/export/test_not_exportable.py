"""A run that was trained to be compared with is refused before anything is converted."""

from pathlib import Path

import pytest
from support.small_features import write_features
from support.small_shop import write_shop
from typer.testing import CliRunner

from mmsr.export.cli import app
from mmsr.training.architectures import NotExportableError
from mmsr.training.config import parse_recipe
from mmsr.training.fit import Hooks
from mmsr.training.run import start_run

DIF_SR = {
    "architecture": "dif-sr",
    "sources": ["id", "position", "category"],
    "content_in_values": False,
    "content_in_outputs": False,
    "modality_dropout": 0.0,
    "id_dropout": 0.0,
}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DIF_SR, '"dif-sr" is a baseline to compare with and cannot be exported'),
        ({"sources": ["id", "text"], "shuffle": ["text"]}, "is a control, trained on wrongly"),
        ({"sources": ["id", "text"], "noise": ["text"]}, "is a control, trained on noise"),
    ],
)
def test_baselines_and_controls_are_refused_and_nothing_is_published(
    tmp_path: Path, model: dict[str, object], message: str
) -> None:
    shop = write_features(write_shop(tmp_path / "data"), "text")
    tables = {"model": {**model, "width": 8, "side_width": 8, "blocks": 1, "max_length": 8}}
    recipe = parse_recipe({**tables, "fit": {"epochs": 1}}, "c.toml")
    run, repository = tmp_path / "run", tmp_path / "repository"
    quiet = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, shop, run, resume=False).run(run, quiet)
    done = CliRunner().invoke(app, [str(run), "--repository", str(repository)])
    assert isinstance(done.exception, NotExportableError)
    assert message in str(done.exception)
    assert not list(repository.glob("versions/*"))
