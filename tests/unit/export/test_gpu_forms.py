"""gpu-check measures, at each size of catalogue, the graph that `mmsr-export` ships for it."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu.graphs import manifest_of
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.shop import config_of, forms, make_model, make_tables
from mmsr.export.folding import RowFolder, RowLayout, plain_columns
from mmsr.export.forms import capacity_of, forms_of


@pytest.fixture
def quick(tmp_path: Path) -> Setting:
    return Setting(work=tmp_path, device="cpu", quick=True)


def test_the_measured_sizes_get_the_forms_that_an_export_decides(tmp_path: Path) -> None:
    setting = Setting(work=tmp_path, device="cuda")
    assert [str(forms(setting, items)) for items in setting.items] == [
        "folded rows, flat top-K",
        "plain rows, chunked top-K",
        "plain rows, chunked top-K",
    ]
    config = config_of(setting)
    assert all(forms(setting, items) == forms_of(config, items) for items in setting.items)
    for items in setting.items:
        sizes = manifest_of(setting, items).tables
        assert sizes.capacity == capacity_of(items)
        folded = forms_of(config, items).rows.folded
        wanted = RowLayout(config).columns if folded else plain_columns(config)
        assert sizes.input_width == wanted


def test_the_larger_quick_size_has_the_chunked_top_k(quick: Setting) -> None:
    assert [forms(quick, items).scoring.chunked for items in quick.items] == [False, True]


def test_tables_have_the_rows_of_a_bundle_in_the_form_that_is_read(quick: Setting) -> None:
    items = quick.items[0]
    plain, folded = (make_tables(quick, items, torch.float32, by) for by in (None, 1))
    assert len(plain.inputs_RW) == len(folded.inputs_RW) == capacity_of(items)
    assert not plain.inputs_RW[items + 1 :].any()
    with torch.no_grad():
        wanted_RT = RowFolder(make_model(quick, 1))(plain.inputs_RW)
    torch.testing.assert_close(folded.inputs_RW, wanted_RT)
