"""Tables of a bundle: what training has not seen is written as what it is to a server, new."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.random_run import ITEMS, random_run

from mmsr.export import parity, tables
from mmsr.export.graphs import ItemGraph
from mmsr.export.tables import item_rows, probe_set, write_tables
from mmsr.training.config import SplitConfig
from mmsr.training.items import ItemContent, ItemRows
from mmsr.training.run import TrainedRun


def test_untrained_items_are_written_with_the_unknown_id(tmp_path: Path) -> None:
    run = random_run(SplitConfig(cold_share=0.2))
    write_tables(run, tmp_path, folded=False)
    ids_ND = np.load(tmp_path / "tables/ids.npy")
    untrained = np.flatnonzero(run.split.train_counts(ITEMS)[1:] == 0) + 1
    assert set(run.split.cold_rows.tolist()) <= set(untrained.tolist())
    assert np.array_equal(ids_ND[untrained], ids_ND[[0] * len(untrained)])
    assert len(np.unique(ids_ND, axis=0)) == ITEMS + 1 - len(untrained)
    # What the item graph gives for such an item by its own row and without any id is one.
    content = run.content.rows(torch.from_numpy(untrained))
    by_row, unknown = (
        ItemGraph(run.model, folded=False)(
            torch.from_numpy(row),
            torch.from_numpy(ids_ND),
            *content.features.values(),
            *content.present.values(),
        )
        for row in (untrained, np.zeros_like(untrained))
    )
    for one, other in zip(by_row, unknown, strict=True):
        assert torch.equal(one, other)
    outputs_ND = np.load(tmp_path / "tables/item_outputs.npy")
    np.testing.assert_allclose(outputs_ND[untrained], by_row[1].detach().numpy(), atol=1e-6)


def test_real_probes_are_the_histories_of_the_runs_own_split() -> None:
    run = random_run(SplitConfig(cold_share=0.2))
    probes = probe_set(run, item_rows(run), "real")
    users = run.split.evaluated("test").tolist()
    assert probes.target_P.tolist() == [run.split.target(user, "test") for user in users]
    assert not np.isin(probes.history_PL, run.split.cold_rows).any()
    newest = [run.split.history(user, "test")[-1] for user in users]
    assert probes.history_PL[np.arange(len(users)), probes.length_P - 1].tolist() == newest


def test_probes_are_answered_by_the_full_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is made of the shorter one, and must not be compared with itself."""
    run = random_run(SplitConfig())

    def wrong(*_: object) -> torch.Tensor:
        raise AssertionError("the probe asked for what the graph computes")

    monkeypatch.setattr(run.model, "last", wrong)
    rows = item_rows(run)
    probes = probe_set(run, rows, "real")
    for user in range(len(probes.length_P)):
        length = probes.length_P[user]
        history = torch.from_numpy(probes.history_PL[user : user + 1, :length])
        with torch.no_grad():
            state_D = run.model(rows.inputs_nW, history)[0, -1]
        np.testing.assert_allclose(probes.state_PD[user], state_D.numpy(), atol=1e-5)
    best = (torch.from_numpy(probes.state_PD) @ rows.outputs_nD[1:].T).max(dim=1)
    np.testing.assert_allclose(probes.top_scores_PK[:, 0], best.values.numpy(), atol=1e-5)


def test_made_up_probes_hold_items_only() -> None:
    run = random_run(SplitConfig())
    probes = probe_set(run, item_rows(run), "synthetic")
    real = np.arange(probes.history_PL.shape[1]) < probes.length_P[:, None]
    assert (probes.history_PL[real] >= 1).all()
    assert (probes.history_PL[~real] == 0).all()
    for rows in (probes.history_PL, probes.target_P, probes.top_rows_PK):
        assert rows.max() <= ITEMS
    assert probes.target_P.min() >= 1
    assert len(probes.length_P) == run.dataset.info.users


def test_rows_beyond_the_items_are_zero(tmp_path: Path) -> None:
    run = random_run(SplitConfig())
    rows = item_rows(run)
    sizes = write_tables(run, tmp_path, folded=False)
    # At least 256 spare rows, and whole chunks.
    assert (sizes.items, sizes.capacity) == (ITEMS, 320)
    for name, wanted in (("item_inputs", rows.inputs_nW), ("item_outputs", rows.outputs_nD)):
        table = np.load(tmp_path / f"tables/{name}.npy")
        assert np.array_equal(table[: ITEMS + 1], wanted.detach().numpy())
        assert not table[ITEMS + 1 :].any()
        assert table.dtype == np.float32


def test_the_rows_of_a_model_of_ids_alone_can_be_compared_as_any() -> None:
    run = random_run(SplitConfig(), sources=("id",))
    rows = item_rows(run)
    weights_ND = run.model.item_encoder.ids.weight.detach()
    assert np.array_equal(rows.outputs_nD.numpy(), weights_ND.numpy())


def test_tables_made_in_blocks_are_those_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = random_run(SplitConfig())
    (tmp_path / "at-once").mkdir()
    (tmp_path / "in-blocks").mkdir()
    write_tables(run, tmp_path / "at-once", folded=True)
    made: list[int] = []
    at_once = parity.torch_rows

    def counted(run: TrainedRun, rows_n: torch.Tensor, content: ItemContent) -> ItemRows:
        made.append(len(rows_n))
        return at_once(run, rows_n, content)

    monkeypatch.setattr(parity, "ITEMS_PER_CALL", 7)
    monkeypatch.setattr(tables, "torch_rows", counted)
    write_tables(run, tmp_path / "in-blocks", folded=True)
    assert max(made) == 7
    assert sum(made) == ITEMS + 1
    for name in ("item_inputs", "item_outputs", "ids"):
        one, other = (
            np.load(tmp_path / folder / f"tables/{name}.npy") for folder in ("at-once", "in-blocks")
        )
        np.testing.assert_allclose(one, other, atol=1e-6)
