"""Item rows that hold every block's queries and keys, and the model that reads them.

A source that is constant over the blocks (image, text, category) has queries and keys that follow
from the item alone; so have the running state's before the first block, with its values. They are
computed once an item, not once a position of every request: the row grows, the request shrinks.
The row is cut into chunks of g columns, and each request gathers a tensor's chunks straight in the
layout that the attention reads, so nothing is split or transposed afterwards.

Columns of a row, in this order; within a piece by head, then by source:

    state                      D         (the normed input vector)
    of each block: queries     sum of the constant sources' widths, scaled
                   keys        the same
                   values      D, of the first block alone

Where positions are added to the inputs the first state is no item's; then its queries, keys and
values stay in the graph. `concat` mixes channels by pair and is not folded.
"""

# B batch, Q queries, L keys, n items, D width, S side width, H heads, E width per head,
# W columns of a plain row, T columns of a folded one, C table rows, c chunks, g columns of a chunk

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmsr.bundle.manifest import Manifest
from mmsr.training.attention import Block, FusedAttention, take
from mmsr.training.config import ModelConfig
from mmsr.training.model import SequentialRecommender

MOST_BYTES = 1 << 30  # of a folded table; beyond, scoring the catalogue takes most of the time
BYTES = 4  # of a float32


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a bundle's item rows are folded, and why."""

    folded: bool
    why: str
    columns: int
    plain_columns: int


def decide(config: ModelConfig, capacity: int) -> Decision:
    """Fold where the folded table of `capacity` rows stays small."""
    plain = plain_columns(config)
    if config.fusion == "concat":
        why = "the fusion concat mixes every pair of positions"
        return Decision(folded=False, why=why, columns=plain, plain_columns=plain)
    columns = RowLayout(config).columns
    size = columns * capacity * BYTES
    folded = size <= MOST_BYTES
    why = f"{size / 2**20:.0f} MiB of folded rows, at most {MOST_BYTES >> 20} MiB"
    return Decision(
        folded=folded, why=why, columns=columns if folded else plain, plain_columns=plain
    )


def is_folded(manifest: Manifest) -> bool:
    """Tell whether a bundle's item rows are folded; before there was the choice, none was."""
    recorded: dict[str, object] = manifest.provenance.get("item_rows", {})
    return bool(recorded.get("folded", False))


def plain_columns(config: ModelConfig) -> int:
    """Return the columns W of a row that is not folded."""
    return config.width + config.side_width * len(config.modalities)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some columns of a row: `chunks` per head, for each of `heads`."""

    begin: int  # the first chunk
    heads: int
    chunks: int

    @property
    def end(self) -> int:
        """Return the chunk after the last one."""
        return self.begin + self.heads * self.chunks


class RowLayout:
    """Where each piece of a folded row stands."""

    def __init__(self, config: ModelConfig) -> None:
        self.heads = config.heads
        self.first_is_static = not config.position_in_inputs
        self.static = config.modalities
        width, side = config.width // config.heads, config.side_width // config.heads
        self.chunk = math.gcd(width, side) if config.modalities else width
        self.state = Piece(begin=0, heads=1, chunks=config.width // self.chunk)
        self.queries: list[Piece] = []
        self.keys: list[Piece] = []
        end = self.state.end
        for block in range(config.blocks):
            columns = side * len(self.static) + (width if self.has_state(block) else 0)
            for pieces in (self.queries, self.keys):
                pieces.append(Piece(begin=end, heads=self.heads, chunks=columns // self.chunk))
                end = pieces[-1].end
            if block == 0 and self.first_is_static:
                self.values = Piece(begin=end, heads=self.heads, chunks=width // self.chunk)
                end = self.values.end
        self.chunks = end

    @property
    def columns(self) -> int:
        """Return the columns T of a row."""
        return self.chunks * self.chunk

    def has_state(self, block: int) -> bool:
        """Tell whether the running state's queries and keys of a block are among the row's."""
        return block == 0 and self.first_is_static

    def sources(self, block: int) -> list[str]:
        """Return the sources of a block whose queries and keys stand in the row, in order."""
        return [*(["id"] if self.has_state(block) else []), *self.static]


class RowFolder(nn.Module):
    """Plain rows [n, W] -> folded rows [n, T]."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        self.model, self.layout = model, RowLayout(model.config)

    def forward(self, inputs_nW: Tensor) -> Tensor:
        """Return [n, T]."""
        config, layout = self.model.config, self.layout
        widths = [config.width, *[config.side_width] * len(config.modalities)]
        state_nD, *parts = inputs_nW.split(widths, dim=1)
        known = dict(zip(config.modalities, parts, strict=True))
        if layout.first_is_static:
            state_nD = self.model.input_norm(state_nD)
        pieces = [state_nD]
        for number, block in enumerate(self.model.blocks):
            assert isinstance(block, Block)
            if layout.has_state(number):
                known["id"] = block.attention_norm(state_nD)
            attention, sources = block.attention, layout.sources(number)
            if sources:
                pieces.append(self._heads(attention.query, known, sources, scaled=True))
                pieces.append(self._heads(attention.key, known, sources, scaled=False))
            if layout.has_state(number):
                pieces.append(attention.value(known["id"]))
        return torch.cat(pieces, dim=1)

    def _heads(
        self, layers: nn.ModuleDict, known: dict[str, Tensor], sources: list[str], *, scaled: bool
    ) -> Tensor:
        parts = []
        for source in sources:
            part_nHE = layers[source](known[source]).unflatten(1, (self.layout.heads, -1))
            parts.append(part_nHE * part_nHE.shape[2] ** -0.5 if scaled else part_nHE)
        joined: Tensor = torch.cat(parts, dim=2).flatten(1)
        return joined


class FoldedModel(nn.Module):
    """`SequentialRecommender.last` on folded rows. For the fusions sum and gate."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        if model.config.fusion == "concat":
            raise ValueError("the fusion concat cannot be folded")
        self.model, self.layout = model, RowLayout(model.config)
        self.gated = model.config.fusion == "gate"
        length = model.config.max_length
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        self.register_buffer("mask_LL", torch.zeros(length, length).where(causal, -torch.inf))
        for number, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            scores = self._position_scores(block.attention)
            if not self.gated:
                scores = scores + self.get_buffer("mask_LL")
            self.register_buffer(f"positions_{number}_HLL", scores)

    def last(self, rows_CT: Tensor, history_BL: Tensor, length_B: Tensor) -> Tensor:
        """Return the state after the last item, [B, D]."""
        chunks_cg = rows_CT.view(-1, self.layout.chunk)
        at_B1 = length_B[:, None] - 1
        last_B1 = history_BL.gather(1, at_B1)
        final = len(self.model.blocks) - 1
        state_BLD = None
        if final > 0 or not self.layout.first_is_static:
            state_BLD = self._first_state(chunks_cg, history_BL)
        for number in range(final):
            assert state_BLD is not None
            state_BLD = self._block(number, chunks_cg, history_BL, state_BLD)
        if state_BLD is None:
            state_B1D = self._gather(chunks_cg, last_B1, self.layout.state).flatten(1, 2)
        else:
            state_B1D = take(state_BLD, at_B1)
        state_B1D = self._last_block(chunks_cg, (history_BL, last_B1, at_B1), state_BLD, state_B1D)
        return self.model._output(state_B1D[:, 0])

    def _first_state(self, chunks_cg: Tensor, history_BL: Tensor) -> Tensor:
        state_BLD = self._gather(chunks_cg, history_BL, self.layout.state).flatten(1, 2)
        if self.layout.first_is_static:
            return state_BLD
        length = history_BL.shape[1]
        normed: Tensor = self.model.input_norm(
            state_BLD + self.model.input_positions.weight[:length]
        )
        return normed

    def _block(
        self, number: int, chunks_cg: Tensor, history_BL: Tensor, state_BLD: Tensor
    ) -> Tensor:
        """Return every position's state after a block that is not the last."""
        block = self._block_of(number)
        length = history_BL.shape[1]
        normed_BLD = block.attention_norm(state_BLD)
        gates = self._gates(block.attention, normed_BLD)
        scores_BHLL = self._scores(
            number,
            chunks_cg,
            (history_BL, history_BL),
            (normed_BLD, normed_BLD),
            gates,
        )
        positions_HLL = self.get_buffer(f"positions_{number}_HLL")[:, :length, :length]
        if gates is not None:
            positions_HLL = self._gated(positions_HLL, gates)
            positions_HLL = positions_HLL + self.get_buffer("mask_LL")[:length, :length]
        return self._finish(
            block,
            scores_BHLL + positions_HLL,
            self._values(number, chunks_cg, history_BL, normed_BLD),
            state_BLD,
        )

    def _last_block(
        self,
        chunks_cg: Tensor,
        rows: tuple[Tensor, Tensor, Tensor],
        state_BLD: Tensor | None,
        state_B1D: Tensor,
    ) -> Tensor:
        """Return the last position's state after the last block, [B, 1, D]."""
        history_BL, last_B1, at_B1 = rows
        number = len(self.model.blocks) - 1
        block = self._block_of(number)
        length = history_BL.shape[1]
        normed_BLD = None if state_BLD is None else block.attention_norm(state_BLD)
        normed_B1D = block.attention_norm(state_B1D)
        gates = self._gates(block.attention, normed_B1D)
        scores_BH1L = self._scores(
            number, chunks_cg, (last_B1, history_BL), (normed_B1D, normed_BLD), gates
        )
        at_B = at_B1[:, 0]
        positions_HBL = self.get_buffer(f"positions_{number}_HLL")[:, at_B, :length]
        positions_BH1L = positions_HBL.transpose(0, 1)[:, :, None]
        if gates is not None:
            positions_BH1L = self._gated(positions_BH1L, gates)
            positions_BH1L = (
                positions_BH1L + self.get_buffer("mask_LL")[at_B, :length][:, None, None]
            )
        return self._finish(
            block,
            scores_BH1L + positions_BH1L,
            self._values(number, chunks_cg, history_BL, normed_BLD),
            state_B1D,
        )

    def _scores(
        self,
        number: int,
        chunks_cg: Tensor,
        rows: tuple[Tensor, Tensor],
        normed: tuple[Tensor, Tensor | None],
        gates: dict[str, Tensor] | None,
    ) -> Tensor:
        """Return the sum over the sources but position, [B, H, Q, L]."""
        layout, attention = self.layout, self._block_of(number).attention
        terms = []
        sources = layout.sources(number)
        if sources:
            q_BHQE = self._gather(chunks_cg, rows[0], layout.queries[number])
            if gates is not None:
                parts = q_BHQE.split([attention.widths[s] // layout.heads for s in sources], dim=-1)
                gated = [p * gates[s] for p, s in zip(parts, sources, strict=True)]
                q_BHQE = torch.cat(gated, dim=-1)
            k_BHLE = self._gather(chunks_cg, rows[1], layout.keys[number])
            terms.append(q_BHQE @ k_BHLE.transpose(2, 3))
        if not layout.has_state(number):
            assert normed[1] is not None
            q_BHQE = self._split(attention.query["id"](normed[0]))
            q_BHQE = q_BHQE * q_BHQE.shape[-1] ** -0.5
            if gates is not None:
                q_BHQE = q_BHQE * gates["id"]
            terms.append(q_BHQE @ self._split(attention.key["id"](normed[1])).transpose(2, 3))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def _values(
        self, number: int, chunks_cg: Tensor, history_BL: Tensor, normed_BLD: Tensor | None
    ) -> Tensor:
        if self.layout.has_state(number):
            return self._gather(chunks_cg, history_BL, self.layout.values)
        assert normed_BLD is not None
        return self._split(self._block_of(number).attention.value(normed_BLD))

    def _finish(
        self, block: Block, scores_BHQL: Tensor, v_BHLD: Tensor, state_BQD: Tensor
    ) -> Tensor:
        mixed_BHQD = scores_BHQL.softmax(-1) @ v_BHLD
        mixed_BQD = block.attention.out(mixed_BHQD.transpose(1, 2).flatten(2))
        return block._finish(state_BQD, mixed_BQD)

    def _gather(self, chunks_cg: Tensor, rows_BL: Tensor, piece: Piece) -> Tensor:
        """Return a piece of some rows, [B, H, L, its width per head]."""
        place_HLc = (torch.arange(piece.begin, piece.end).view(piece.heads, 1, piece.chunks)).to(
            rows_BL.device
        )
        index_BHLc = rows_BL[:, None, :, None] * self.layout.chunks + place_HLc
        return nn.functional.embedding(index_BHLc, chunks_cg).flatten(3)

    def _split(self, x_BLD: Tensor) -> Tensor:
        split: Tensor = x_BLD.unflatten(-1, (self.layout.heads, -1))
        return split.transpose(1, 2)

    def _block_of(self, number: int) -> Block:
        block = self.model.blocks[number]
        assert isinstance(block, Block)
        return block

    def _gates(self, attention: FusedAttention, normed_BQD: Tensor) -> dict[str, Tensor] | None:
        """Return each source's gate, [B, H, Q, 1]; None where nothing is gated."""
        if not self.gated:
            return None
        gates = attention.gates(normed_BQD)
        return dict(zip(attention.widths, gates, strict=True))

    def _gated(self, positions: Tensor, gates: dict[str, Tensor]) -> Tensor:
        return positions * gates["position"] if "position" in gates else positions

    @torch.no_grad()
    def _position_scores(self, attention: FusedAttention) -> Tensor:
        """Return A_position [H, L, L] of all positions; zeros where it is no source."""
        length = self.model.config.max_length
        if "position" not in self.model.sides:
            return torch.zeros(1, length, length)
        x_LS = self.model.positions.weight
        q_HLS, k_HLS = (
            layers["position"](x_LS).unflatten(1, (self.layout.heads, -1)).transpose(0, 1)
            for layers in (attention.query, attention.key)
        )
        scores: Tensor = (q_HLS * q_HLS.shape[2] ** -0.5) @ k_HLS.transpose(1, 2)
        return scores
