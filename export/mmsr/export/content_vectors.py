"""The items' content vectors: the output vectors that they would have if nobody had bought them.

What `Similar` compares by content with. float32: numpy compares 65,536 of width 128 in 2 ms,
in float16 in 40 ms, as it has no product of halves.
"""

# N items, C table rows, D columns, n rows of one block

from pathlib import Path

import torch

from mmsr.engine.opened import CONTENT
from mmsr.export.parity import item_blocks, torch_rows
from mmsr.export.row_file import RowFile
from mmsr.training.run import TrainedRun


def has_content_vectors(run: TrainedRun) -> bool:
    """Tell whether content says anything of an output vector; else all would be the same."""
    config = run.model.config
    return bool(config.modalities) and config.content_in_outputs


def content_vectors(run: TrainedRun, rows_n: torch.Tensor) -> torch.Tensor:
    """Return the output vectors [n, D] of some rows, each with the id of a new item."""
    return torch_rows(run, torch.zeros_like(rows_n), run.content.rows(rows_n)).outputs_nD


def write_content_vectors(run: TrainedRun, folder: Path, capacity: int) -> None:
    """Write tables/content.npy, if it would say anything; spare rows are zero.

    In blocks: the memory does not grow with the catalogue.
    """
    if not has_content_vectors(run):
        return
    with RowFile(folder / CONTENT, capacity, run.model.config.width) as file:
        for rows_n in item_blocks(run.info.items, begin=0):
            file.append(content_vectors(run, rows_n))
