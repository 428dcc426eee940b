"""Explanations: the numbers are the model's own, the picture is whole, mistakes are one line."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.small_features import write_features
from support.small_shop import shop_recipe, write_shop
from typer.testing import CliRunner

from mmsr.bundle.errors import MmsrError
from mmsr.training.architectures import build_model
from mmsr.training.attention import Block
from mmsr.training.cli import app
from mmsr.training.config import load_recipe
from mmsr.training.dataset import ITEM_SCHEMA
from mmsr.training.explain.canvas import DOTS_PER_INCH, Box, Sheet, wrap
from mmsr.training.explain.explanation import ExplainError, ShownItem, View, explain_user
from mmsr.training.explain.figure import draw, newest, percent, picture_reader
from mmsr.training.explain.pictures import thumbnail
from mmsr.training.explain.users import UnknownUserError, find_user
from mmsr.training.fit import Hooks
from mmsr.training.run import TrainedRun, open_run, start_run

QUIET = Hooks(step=lambda done, steps, loss: None, epoch=lambda line: None)
BOX = Box(left=0, top=0, width=1, height=1)
ATOL = 1e-6  # of shares that sum to 1, computed twice in float32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    data = write_features(write_shop(folder / "data"), "image", "text")
    recipe = load_recipe(shop_recipe(data, epochs=2))
    start_run(recipe, data, folder / "run", resume=False).run(folder / "run", QUIET)
    return folder / "run"


@pytest.fixture(scope="module")
def trained(run: Path) -> TrainedRun:
    return open_run(run)


def bought(trained: TrainedRun, user: int) -> list[int]:
    offsets = trained.dataset.offsets
    rows: list[int] = trained.dataset.items_T[offsets[user] : offsets[user + 1]].tolist()
    return rows


def user_who_bought(trained: TrainedRun, least: int, most: int) -> int:
    lengths = np.diff(trained.dataset.offsets)
    return int(np.flatnonzero((lengths >= least) & (lengths <= most))[0])


@torch.no_grad()
def model_weights(trained: TrainedRun, history: list[int], block: int) -> tuple[torch.Tensor, ...]:
    """Return [M, H, L, L] and [H, L, L] of a block, straight from the model."""
    model = trained.model
    inputs_NW = model.table(trained.content).inputs_nW
    state, sides = model.embed(inputs_NW, torch.tensor([history]))
    blocks = [b for b in model.blocks if isinstance(b, Block)]
    for earlier in blocks[: block - 1]:
        state = earlier(state, sides)
    alone, fused = blocks[block - 1].weights(state, sides)
    return alone[0], fused[0]


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("head", [None, 1, 2])
def test_the_heat_maps_are_the_models_own_weights(
    trained: TrainedRun, block: int, head: int | None
) -> None:
    user = user_who_bought(trained, 5, 8)
    found = explain_user(trained, f"u{user}", View(block=block, head=head))
    alone, fused = model_weights(trained, bought(trained, user), block)
    expected = alone.mean(1) if head is None else alone[:, head - 1]
    assert found.sources == ("id", "position", "image", "text", "category")
    np.testing.assert_allclose(found.alone_MLL, expected.numpy(), atol=ATOL)
    expected = fused.mean(0) if head is None else fused[head - 1]
    np.testing.assert_allclose(found.fused_LL, expected.numpy(), atol=ATOL)
    np.testing.assert_allclose(found.alone_MLL.sum(-1), 1, atol=ATOL)


def test_the_last_block_and_all_heads_are_shown_unless_asked(trained: TrainedRun) -> None:
    found = explain_user(trained, "u3", View())
    same = explain_user(trained, "u3", View(block=2))
    assert (found.block, found.blocks, found.head, found.heads) == (2, 2, None, 2)
    np.testing.assert_array_equal(found.fused_LL, same.fused_LL)


def test_what_is_drawn_of_a_long_history_adds_up(trained: TrainedRun) -> None:
    user = user_who_bought(trained, 9, 15)
    found = explain_user(trained, f"u{user}", View())
    assert (found.interactions, len(found.history)) == (len(bought(trained, user)), 8)
    shown = newest(found, 3)
    assert shown.older == 5
    assert shown.names == ("id", "position", "image", "text", "category", "fused")
    np.testing.assert_array_equal(shown.last_RS[-1], found.fused_LL[-1, 5:])
    np.testing.assert_array_equal(shown.maps_RSS[2], found.alone_MLL[2, 5:, 5:])
    np.testing.assert_allclose(shown.last_RS.sum(1) + shown.older_R, 1, atol=ATOL)
    titles = [item.title for item in found.history]
    assert titles == [f"Thing number {row - 1}" for row in bought(trained, user)[-8:]]


@torch.no_grad()
def all_scores(trained: TrainedRun, user: int) -> list[float]:
    rows = trained.model.table(trained.content)
    history = torch.tensor([bought(trained, user)[-8:]])
    state = trained.model(rows.inputs_nW, history)[0, -1]
    scores: list[float] = (rows.outputs_nD @ state).tolist()
    return scores


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_recommendations_are_the_best_of_all_items(
    trained: TrainedRun, exclude_seen: bool
) -> None:
    recipe = trained.info.recipe
    recipe = replace(recipe, serving=replace(recipe.serving, exclude_seen=exclude_seen))
    run = replace(trained, info=replace(trained.info, recipe=recipe))
    scores = all_scores(trained, 3)
    left_out = set(bought(trained, 3)) if exclude_seen else set()
    rows = [row for row in range(1, len(scores)) if row not in left_out]
    best = sorted(rows, key=lambda row: (-scores[row], row))[:7]
    found = explain_user(run, "u3", View(k=7))
    assert [item.item_id for item, _ in found.recommended] == [f"item-{row - 1}" for row in best]
    np.testing.assert_allclose([s for _, s in found.recommended], [scores[r] for r in best], 1e-5)
    assert found.seen_excluded is exclude_seen


def test_no_more_is_recommended_than_there_is(trained: TrainedRun) -> None:
    found = explain_user(trained, "u3", View(k=1000))
    assert len(found.recommended) == 40 - len(set(bought(trained, 3)))


def test_an_unknown_user_is_told_the_ids_nearest(trained: TrainedRun) -> None:
    with pytest.raises(UnknownUserError, match=r"no user 'U12' among the 60 .*; near it: u12"):
        find_user(trained.dataset, "U12")
    with pytest.raises(UnknownUserError, match="near it: u12"):
        find_user(trained.dataset, " u12 ")
    with pytest.raises(UnknownUserError, match="ids look like this: u0, u1, u2"):
        find_user(trained.dataset, "somebody@shop")


def test_a_user_without_a_purchase_is_an_error(trained: TrainedRun) -> None:
    offsets = np.array(trained.dataset.offsets)
    offsets[:2] = 0
    nobody = replace(trained.dataset, offsets=offsets)
    with pytest.raises(UnknownUserError, match="'u0' has no interactions"):
        find_user(nobody, "u0")


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(block=0), "block 0; this run has blocks 1 to 2"),
        (View(block=3), "block 3; this run has blocks 1 to 2"),
        (View(head=3), "head 3; this run has heads 1 to 2"),
        (View(k=0), "k = 0; expected at least 1"),
    ],
)
def test_what_is_not_there_is_said(trained: TrainedRun, view: View, message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        explain_user(trained, "u3", view)


def test_a_baseline_has_no_attention_per_source(trained: TrainedRun) -> None:
    config = replace(
        trained.info.recipe.model,
        architecture="dif-sr",
        content_in_values=False,
        content_in_outputs=False,
        modality_dropout=0.0,
        id_dropout=0.0,
    )
    baseline = build_model(config, trained.info.items, trained.info.feature_widths)
    with pytest.raises(ExplainError, match="architecture = 'dif-sr' is a baseline"):
        explain_user(replace(trained, model=baseline), "u3", View())


def explain(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["explain", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_writes_a_whole_picture_of_the_drawn_size(
    run: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    out = tmp_path / "new folder" / "u3.png"
    assert "u3.png" in explain(run, "--user", "u3", "--out", out, "--k", 3, "--items", 2)
    with Image.open(out) as image:
        image.load()
        assert image.format == "PNG"
        size = image.size
    explanation = explain_user(trained, "u3", View(k=3))
    sheet = draw(explanation, 2, picture_reader(trained.dataset.image_root))
    inches = sheet.figure.get_size_inches()
    assert size == tuple(int(side * DOTS_PER_INCH) for side in inches)


def test_a_longer_history_makes_a_wider_picture_and_nothing_smaller(trained: TrainedRun) -> None:
    user = user_who_bought(trained, 9, 15)
    found = explain_user(trained, f"u{user}", View(k=1))
    long = replace(
        found,
        history=found.history * 8,
        alone_MLL=np.tile(found.alone_MLL / np.float32(8), (1, 8, 8)),
        fused_LL=np.tile(found.fused_LL / np.float32(8), (8, 8)),
    )
    few, many = (draw(long, items, lambda item: None) for items in (12, 64))
    assert len(many.axes.texts) > 64 * len(newest(long, 64).names)
    assert many.figure.get_size_inches()[0] > 64
    assert few.figure.get_size_inches()[0] < 17


def test_items_without_pictures_and_odd_titles_are_drawn_too(
    run: Path, trained: TrainedRun, tmp_path: Path
) -> None:
    explanation = explain_user(trained, "u3", View(k=4))
    odd = ("only $5 and $6_x^", "x" * 300, "ガラスの茶碗 と 木の皿", "\\frac{1}{2} {")
    items = [
        ShownItem(item_id=title, title=title, image=None)
        for title in (*odd, *odd)[: len(explanation.history)]
    ]
    explanation = replace(explanation, history=(*items, *explanation.history[len(items) :]))
    sheet = draw(explanation, 12, picture_reader(tmp_path / "no such folder"))
    sheet.save(tmp_path / "odd.png")
    with Image.open(tmp_path / "odd.png") as image:
        image.load()
    drawn = "".join(text.get_text() for text in sheet.axes.texts)
    assert "$5 and" in drawn
    assert not any(text.get_parse_math() for text in sheet.axes.texts)


def test_characters_without_a_font_are_told(tmp_path: Path) -> None:
    sheet = Sheet(2, 1)
    sheet.placeholder(BOX, "plain")
    assert sheet.save(tmp_path / "plain.png")
    sheet.fonts = ["DejaVu Sans"]
    sheet.placeholder(BOX, "\U00012000")  # cuneiform
    assert not sheet.save(tmp_path / "cuneiform.png")


def test_mistakes_of_the_command_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MmsrError, match=r"expected a name that ends in \.png"):
        explain(run, "--user", "u3", "--out", tmp_path / "u3.jpg")
    with pytest.raises(MmsrError, match="--items 0; expected at least 1"):
        explain(run, "--user", "u3", "--out", tmp_path / "u3.png", "--items", 0)
    assert list(tmp_path.iterdir()) == []


def test_an_item_without_a_title_goes_by_its_id(run: Path, tmp_path: Path) -> None:
    trained = open_run(run)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = trained.dataset.item_table().to_pylist()
    rows = [row | {"title": " "} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet")
    moved = replace(trained, dataset=replace(trained.dataset, folder=folder))
    (folder / "users.parquet").write_bytes((trained.dataset.folder / "users.parquet").read_bytes())
    found = explain_user(moved, "u3", View())
    assert all(item.title == item.item_id for item in found.history)


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", (width, height), (255, 0, 0, 255)).save(data, "PNG")
    return data.getvalue()


def test_a_thumbnail_keeps_its_proportions(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(png(400, 100))
    pixels = thumbnail(tmp_path / "wide.png", 60)
    assert pixels is not None
    assert pixels.shape == (15, 60, 3)
    assert tuple(pixels[7, 30]) == (255, 0, 0)


@pytest.mark.parametrize("content", [None, b"", b"no picture", png(9, 9)[:50]])
def test_a_picture_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    assert thumbnail(path, 60) is None


def test_titles_are_cut_to_their_lines() -> None:
    assert wrap("a cup", 1.0, 7, 3) == "a cup"
    lines = wrap("word " * 50, 1.0, 7, 3).splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    wide = wrap("茶" * 50, 1.0, 7, 3).splitlines()
    assert max(map(len, wide)) < max(map(len, lines))


def test_shares_are_written_for_people() -> None:
    assert [percent(x) for x in (0.0, 0.0123, 0.0994, 0.0996, 1.0)] == [
        "0.0%",
        "1.2%",
        "9.9%",
        "10%",
        "100%",
    ]
