"""explain.onnx: what a history gives to some items, with any source of the attention left out.

Beside the scores it returns where the last block looks. It reads the tables of sequence.onnx, in
either form of rows, has no top-K and no filters, and answers for many variants of one request at a
time: a shorter history, a source less. What leaving a source out means is defined in
`mmsr.training.explain.sources`; here every source's queries are multiplied by a switch, so that
A_s becomes 0 for a switch of 0.
"""

# B batch, L history length, M candidates, S sources, C table rows, T columns of a row, D width,
# Q queries, H heads, E width per head

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.bundle.manifest import GraphSpec
from mmsr.export.folding import Piece, RowLayout, plain_columns
from mmsr.export.onnx_file import Conversion, Port
from mmsr.training.attention import Block, FusedAttention, take
from mmsr.training.explain.sources import sources_of
from mmsr.training.model import SequentialRecommender

OUTPUTS = ("scores", "attention")
Projected = tuple[Tensor, Tensor]  # queries (scaled) and keys of one source


class ExplainGraph(nn.Module):
    """Histories, candidates and switches in; the candidates' scores and the attention out.

    `folded`: whether the rows are `RowFolder`'s.
    """

    def __init__(self, model: SequentialRecommender, folded: bool) -> None:
        super().__init__()
        self.model = model
        self.layout = RowLayout(model.config) if folded else None
        for number, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            self.register_buffer(f"spread_{number}_SE", self._spread(number, block.attention))
            if "position" in model.sides:
                query, key = _position_parts(block.attention, model.positions.weight)
                self.register_buffer(f"position_queries_{number}_1HLE", query)
                self.register_buffer(f"position_keys_{number}_1HLE", key)

    def forward(
        self,
        history: Tensor,
        length: Tensor,
        candidates: Tensor,
        switches: Tensor,
        item_inputs: Tensor,
        item_outputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return scores [B, M] and attention [B, L].

        history int64 [B, L] right-padded with row 0, length int64 [B], candidates int64 [B, M],
        switches [B, S] (1: the source is on, 0: left out; in the order of `sources_of`),
        item_inputs [C, T], item_outputs [C, D]. The attention is the last block's at the last
        item: the mean over the heads, 0 on the padding.
        """
        rows_BLT = F.embedding(history, item_inputs)
        steps_L = torch.arange(history.shape[1], device=history.device)
        state_BQD, at_BQ = self._first_state(rows_BLT), steps_L[None]
        weights_BHQL = None
        for number, block in enumerate(self.model.blocks):
            assert isinstance(block, Block)
            normed_BLD = block.attention_norm(state_BQD)
            queries, keys = self._projected(number, rows_BLT, normed_BLD, switches)
            if number == len(self.model.blocks) - 1:
                at_BQ = length[:, None] - 1
                queries, state_BQD = _take_queries(queries, at_BQ), take(state_BQD, at_BQ)
            visible = steps_L <= at_BQ[:, None, :, None]
            weights_BHQL = _fused(block.attention, queries, keys, visible).softmax(-1)
            values = block.attention._heads(block.attention.value(normed_BLD))
            mixed_BQD = (weights_BHQL @ values).transpose(1, 2).flatten(2)
            state_BQD = block._finish(state_BQD, block.attention.out(mixed_BQD))
        assert weights_BHQL is not None
        state_BD1 = self.model._output(state_BQD[:, 0])[:, :, None]
        scores_BM = (F.embedding(candidates, item_outputs) @ state_BD1)[:, :, 0]
        return scores_BM, weights_BHQL[:, :, 0].mean(1)

    def _first_state(self, rows_BLT: Tensor) -> Tensor:
        config = self.model.config
        state_BLD = rows_BLT[..., : config.width]
        if self.layout is not None and self.layout.first_is_static:
            return state_BLD  # normed already
        if config.position_in_inputs:
            state_BLD = state_BLD + self.model.input_positions.weight[: rows_BLT.shape[1]]
        normed: Tensor = self.model.input_norm(state_BLD)
        return normed

    def _groups(self, number: int, attention: FusedAttention) -> list[tuple[str, ...]]:
        """Return a block's sources in the order of its columns; those of a group come at once."""
        if self.layout is None:
            return [(source,) for source in attention.widths]
        stored = tuple(self.layout.sources(number))
        rest = (source for source in attention.widths if source not in stored)
        return [*([stored] if stored else []), *((source,) for source in rest)]

    def _spread(self, number: int, attention: FusedAttention) -> Tensor:
        """Return 1 where a source has a column of a block's queries, else 0; [S, E]."""
        order = [source for group in self._groups(number, attention) for source in group]
        places = [list(attention.widths).index(source) for source in order]
        widths = torch.tensor([attention.widths[s] // attention.heads for s in order])
        spread_ES = F.one_hot(torch.tensor(places), len(places)).repeat_interleave(widths, dim=0)
        return spread_ES.T.float()

    def _projected(
        self, number: int, rows_BLT: Tensor, normed_BLD: Tensor, switches_BS: Tensor
    ) -> Projected:
        """Return all sources' queries, times switch and gate, and keys of a block, [B, H, L, E]."""
        block = self.model.blocks[number]
        assert isinstance(block, Block)
        attention = block.attention
        parts = [
            self._part(number, group, rows_BLT, normed_BLD)
            for group in self._groups(number, attention)
        ]
        weights_BHLS = switches_BS[:, None, None]
        if attention.fusion == "gate":
            weights_BHLS = weights_BHLS * torch.cat(attention.gates(normed_BLD), dim=-1)
        weights_BHLE = weights_BHLS @ self.get_buffer(f"spread_{number}_SE")
        queries, keys = (torch.cat(side, dim=-1) for side in zip(*parts, strict=True))
        return queries * weights_BHLE, keys

    def _part(
        self, number: int, group: tuple[str, ...], rows_BLT: Tensor, normed_BLD: Tensor
    ) -> Projected:
        """Return the queries (scaled) and keys of some sources, [B, H, L, their columns]."""
        block = self.model.blocks[number]
        assert isinstance(block, Block)
        batch, length = rows_BLT.shape[:2]
        if group == ("id",):
            return _project(block.attention, "id", normed_BLD)
        if group == ("position",):
            query, key = (
                self.get_buffer(f"position_{what}_{number}_1HLE")[:, :, :length]
                for what in ("queries", "keys")
            )
            return query.expand(batch, -1, -1, -1), key.expand(batch, -1, -1, -1)
        if self.layout is not None:
            stored = self.layout.queries[number], self.layout.keys[number]
            return self._stored(stored[0], rows_BLT), self._stored(stored[1], rows_BLT)
        config = self.model.config
        begin = config.width + config.side_width * config.modalities.index(group[0])
        x_BLS = rows_BLT[..., begin : begin + config.side_width]
        return _project(block.attention, group[0], x_BLS)

    def _stored(self, piece: Piece, rows_BLT: Tensor) -> Tensor:
        """Return queries or keys as folded rows hold them, [B, H, L, E]."""
        assert self.layout is not None
        chunk = self.layout.chunk
        part_BLE = rows_BLT[..., piece.begin * chunk : piece.end * chunk]
        part_BHLE: Tensor = part_BLE.unflatten(-1, (piece.heads, -1)).transpose(1, 2)
        return part_BHLE


@torch.no_grad()
def _position_parts(attention: FusedAttention, positions_LS: Tensor) -> Projected:
    """Return the queries (scaled) and keys of every position, [1, H, L, E]: they are constant."""
    return _project(attention, "position", positions_LS[None])


def _project(attention: FusedAttention, source: str, x_BLS: Tensor) -> Projected:
    query_BHLE = attention._heads(attention.query[source](x_BLS))
    key_BHLE = attention._heads(attention.key[source](x_BLS))
    return query_BHLE * query_BHLE.shape[-1] ** -0.5, key_BHLE


def _take_queries(queries_BHLE: Tensor, at_B1: Tensor) -> Tensor:
    """Return [B, H, 1, E], the queries at the positions `at_B1`."""
    index = at_B1[:, None, :, None].expand(-1, queries_BHLE.shape[1], -1, queries_BHLE.shape[3])
    return torch.gather(queries_BHLE, 2, index)


def _fused(
    attention: FusedAttention, queries_BHQE: Tensor, keys_BHLE: Tensor, visible: Tensor
) -> Tensor:
    """Return F, -inf where nothing is visible, [B, H, Q, L]."""
    if attention.fusion == "concat":
        return attention._mixed(queries_BHQE, keys_BHLE, visible)
    scores_BHQL = queries_BHQE @ keys_BHLE.transpose(2, 3)
    return scores_BHQL.masked_fill(~visible, -torch.inf)


def convert_explain(model: SequentialRecommender, path: Path, *, folded: bool) -> GraphSpec:
    """Write explain.onnx, which reads the rows that sequence.onnx reads."""
    return explain_conversion(model, folded=folded).write(path)


def explain_conversion(model: SequentialRecommender, *, folded: bool) -> Conversion:
    """Return what explain.onnx is made of."""
    config = model.config
    columns = RowLayout(config).columns if folded else plain_columns(config)
    capacity = 11
    rows = torch.ones(2, 3, dtype=torch.int64)
    ports = [
        Port(
            name="history",
            example=rows,
            dynamic={0: "B", 1: "L"},
            most={1: config.max_length},
        ),
        Port(name="length", example=torch.ones(2, dtype=torch.int64), dynamic={0: "B"}),
        Port(
            name="candidates",
            example=torch.ones(2, 5, dtype=torch.int64),
            dynamic={0: "B", 1: "M"},
        ),
        Port(name="switches", example=torch.ones(2, len(sources_of(model))), dynamic={0: "B"}),
        Port(name="item_inputs", example=torch.zeros(capacity, columns), dynamic={0: "C"}),
        Port(name="item_outputs", example=torch.zeros(capacity, config.width), dynamic={0: "C"}),
    ]
    return Conversion(module=ExplainGraph(model, folded), ports=ports, outputs=OUTPUTS)
