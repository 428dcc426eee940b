from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from support.random_run import ITEMS, random_run

from mmsr.export.content_vectors import has_content_vectors, write_content_vectors
from mmsr.export.graphs import ItemGraph
from mmsr.export.tables import write_tables
from mmsr.training.config import SplitConfig


def test_content_vectors_are_what_the_item_graph_gives_without_an_id(tmp_path: Path) -> None:
    run = random_run(SplitConfig(cold_share=0.2))
    sizes = write_tables(run, tmp_path, folded=False)
    write_content_vectors(run, tmp_path, sizes.capacity)
    content_CD = np.load(tmp_path / "tables/content.npy")
    assert (content_CD.shape, content_CD.dtype) == (
        (sizes.capacity, sizes.output_width),
        np.float32,
    )
    assert not content_CD[ITEMS + 1 :].any()
    rows_n = torch.arange(1, ITEMS + 1)
    content = run.content.rows(rows_n)
    pairs = zip(content.features.values(), content.present.values(), strict=True)
    _, wanted_nD = ItemGraph(run.model, folded=False)(
        torch.zeros_like(rows_n),
        run.model.item_encoder.ids.weight,
        *(tensor for pair in pairs for tensor in pair),
    )
    np.testing.assert_allclose(content_CD[1 : ITEMS + 1], wanted_nD.detach().numpy(), atol=1e-6)
    # Nobody has bought the untrained items: of those it is the output vector itself.
    outputs_CD = np.load(tmp_path / "tables/item_outputs.npy")
    untrained = run.split.train_counts(ITEMS)[1:] == 0
    same_n = np.isclose(content_CD[1 : ITEMS + 1], outputs_CD[1 : ITEMS + 1], atol=1e-6).all(axis=1)
    assert np.array_equal(same_n, untrained)


def test_where_content_is_in_no_output_vector_none_are_written(tmp_path: Path) -> None:
    run = random_run(SplitConfig())
    run.model.config = replace(run.model.config, content_in_outputs=False)
    assert not has_content_vectors(run)
    write_content_vectors(run, tmp_path, 1000)
    assert [*tmp_path.iterdir()] == []
