"""The model, tables and histories that everybody is asked about, the same in every process."""

# P histories, L history length, R rows of the input table, C rows that are scored, W input columns,
# D width, K results

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.gpu.setting import LENGTH, K, SectionSkippedError, Setting
from mmsr.engine.items import bound_rows, rows_outside
from mmsr.engine.probe_answers import outside
from mmsr.export.folding import RowFolder, plain_columns
from mmsr.export.forms import Forms, forms_of
from mmsr.training.config import ModelConfig
from mmsr.training.model import SequentialRecommender, last_states

PROBES = 64
FEATURES = {"image": 8, "text": 8, "category": 4}  # of item content, which is not computed here
CHUNK = 1 << 20  # table rows made at a time
FOLDED = 1 << 16  # and folded at a time
TIE = 1e-4  # relative to max(1, largest score): the project's definition of a right answer
TABLE_COPIES = 2.5  # memory beside the tables: scores, sorted scores


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Item tables on the device; row 0 is padding, and what follows the items."""

    items: int
    inputs_RW: Tensor
    outputs_CD: Tensor
    bias_SC: Tensor  # for PyTorch alone: -inf where a row is no item


def config_of(setting: Setting) -> ModelConfig:
    """Return the model that everybody computes."""
    width = setting.width
    blocks = 1 if setting.quick else 2
    return ModelConfig(width=width, side_width=width, blocks=blocks, max_length=LENGTH)


def forms(setting: Setting, items: int) -> Forms:
    """Return the forms in which `mmsr-export` ships this model for so many items."""
    return forms_of(config_of(setting), items)


def make_model(setting: Setting, seed: int) -> SequentialRecommender:
    """Return an untrained model of five sources; its speed does not depend on its weights."""
    torch.manual_seed(seed)
    model = SequentialRecommender(config_of(setting), 1, FEATURES).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_tables(
    setting: Setting, items: int, dtype: torch.dtype, folded_by: int | None = None
) -> Tables:
    """Return random tables; in fp16 they are the rounded fp32 ones.

    `folded_by`: the seed of the model that folds the rows of the input table; None leaves them
    plain, as the training model reads them.
    """
    capacity = forms(setting, items).capacity
    columns = plain_columns(config_of(setting))
    bias_SC = torch.zeros(1, bound_rows(items), dtype=dtype, device=setting.device)
    bias_SC[0, rows_outside(items)] = -torch.inf
    made = torch.float32 if folded_by is not None else dtype
    inputs_RW = _random(setting, capacity, columns, (1, made))
    inputs_RW[items + 1 :] = 0
    if folded_by is not None:
        inputs_RW = _folded(make_model(setting, folded_by).to(setting.device), inputs_RW, dtype)
    return Tables(
        items=items,
        inputs_RW=inputs_RW,
        outputs_CD=_random(setting, bound_rows(items), setting.width, (2, dtype)),
        bias_SC=bias_SC,
    )


@torch.no_grad()
def _folded(model: SequentialRecommender, plain_RW: Tensor, dtype: torch.dtype) -> Tensor:
    folder = RowFolder(model)
    return torch.cat([folder(part_nW).to(dtype) for part_nW in plain_RW.split(FOLDED)])


def _random(setting: Setting, rows: int, columns: int, how: tuple[int, torch.dtype]) -> Tensor:
    seed, dtype = how
    random = torch.Generator(setting.device).manual_seed(seed)
    table = torch.empty(rows, columns, dtype=dtype, device=setting.device)
    for start in range(0, rows, CHUNK):
        part = table[start : start + CHUNK]
        part.copy_(torch.randn(len(part), columns, generator=random, device=setting.device))
    table[0] = 0
    return table


def room_for(setting: Setting, items: int, batch: int, bytes_each: int) -> str | None:
    """Return why tables and scores of that size do not fit the device; None if they do."""
    if not setting.cuda:
        return None
    decided = forms(setting, items)
    columns = max(decided.rows.columns, decided.rows.plain_columns)
    tables = (decided.capacity * columns + bound_rows(items) * setting.width) * bytes_each
    needed = tables + TABLE_COPIES * items * batch * 4
    free, _ = torch.cuda.mem_get_info()
    if needed <= 0.8 * free:
        return None
    return f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def histories(items: int, batch: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return full histories [batch, L]: the longest computation."""
    return np.random.default_rng([seed, batch]).integers(1, items + 1, (batch, LENGTH))


def request(setting: Setting, items: int, batch: int) -> dict[str, Tensor]:
    """Return what changes from call to call, on the device."""
    values = {
        "history": histories(items, batch),
        "length": np.full(batch, LENGTH, np.int64),
        "excluded": outside(batch, items),
    }
    return {name: torch.from_numpy(v).to(setting.device) for name, v in values.items()}


@torch.no_grad()
def states(setting: Setting, seed: int, tables: Tables, history_PL: Tensor) -> Tensor:
    """Return PyTorch's fp32 states [P, D] by the full forward pass, on fp32 tables."""
    model = make_model(setting, seed).to(setting.device)
    length_P = torch.full((len(history_PL),), history_PL.shape[1], device=setting.device)
    return last_states(model(tables.inputs_RW, history_PL), length_P)


@torch.no_grad()
def write_reference(setting: Setting, items: int, seed: int) -> None:
    """Keep PyTorch's fp32 states and best scores for `compare`."""
    tables = make_tables(setting, items, torch.float32)
    batch = request(setting, items, PROBES)
    state_PD = states(setting, seed, tables, batch["history"])
    best = []
    for part_D in state_PD.split(8):  # 8 x 10 M scores at a time
        scores = part_D @ tables.outputs_CD.T + tables.bias_SC[0]
        best.append(scores.topk(K, dim=1).values)
    np.savez(
        setting.work / f"reference-{items}-{seed}.npz",
        state_PD=state_PD.cpu().numpy(),
        best_PK=torch.cat(best).cpu().numpy(),
    )


def compare(
    setting: Setting, items: int, found: tuple[Tensor, Tensor], seed: int = 0
) -> dict[str, Any]:
    """Return overlap@K (ties within `TIE` are right) and the largest relative score error.

    `found` are rows and scores [P, K] for the histories of `request(setting, items, PROBES)`.
    """
    path = setting.work / f"reference-{items}-{seed}.npz"
    if not path.is_file():
        raise SectionSkippedError("no answers of PyTorch to compare with (see the sequence graphs)")
    with np.load(path) as arrays:
        state_PD = torch.from_numpy(arrays["state_PD"]).to(setting.device)
        best_PK = torch.from_numpy(arrays["best_PK"]).to(setting.device)
    rows_PK, scores_PK = (t.to(setting.device) for t in found)
    outputs_CD = _random(setting, bound_rows(items), setting.width, (2, torch.float32))
    wanted_PK = torch.einsum("pd,pkd->pk", state_PD, outputs_CD[rows_PK])
    scale_P1 = best_PK.abs().amax(1, keepdim=True).clamp_min(1.0)
    right_PK = (wanted_PK >= best_PK[:, -1:] - TIE * scale_P1) & (rows_PK > 0)
    distinct = [len(set(row)) for row in rows_PK.tolist()]
    error = ((scores_PK.float() - wanted_PK).abs() / scale_P1).max()
    return {
        "overlap": float(right_PK.float().mean()) if min(distinct) == K else 0.0,
        "score_error": float(error),
        "histories": len(rows_PK),
    }
