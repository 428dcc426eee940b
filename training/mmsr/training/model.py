"""The sequence side of the model: rows of a history in, the user's vector out. No I/O."""

# B batch, L history length, N items, D width, W columns of the input table

from torch import Tensor, nn

from mmsr.training.attention import Block, take
from mmsr.training.config import ModelConfig
from mmsr.training.items import INIT_STD, ItemContent, ItemEncoder, ItemRows


class SequentialRecommender(nn.Module):
    """A causal Transformer over a history of items with attention per source.

    Histories are right-padded with row 0: with a causal mask the padding is never seen, so a
    padded history gives exactly what it gives alone.
    """

    def __init__(self, config: ModelConfig, items: int, feature_widths: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.items = items
        self.item_encoder = ItemEncoder(config, items, feature_widths)
        self.sides = tuple(s for s in config.sources if s != "id")
        if "position" in config.sources:
            self.positions = nn.Embedding(config.max_length, config.side_width)
        if config.position_in_inputs:
            self.input_positions = nn.Embedding(config.max_length, config.width)
        self.input_norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Block(config, self.sides) for _ in range(config.blocks))
        self.output_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    def forward(self, inputs_NW: Tensor, history_BL: Tensor) -> Tensor:
        """Return the state after every position, [B, L, D]."""
        state_BLD, sides = self.embed(inputs_NW, history_BL)
        for block in self.blocks:
            state_BLD = block(state_BLD, sides)
        return self._output(state_BLD)

    def last(self, inputs_NW: Tensor, history_BL: Tensor, length_B: Tensor) -> Tensor:
        """Return the state after the last item alone, [B, D]: what serving computes."""
        state_BLD, sides = self.embed(inputs_NW, history_BL)
        for block in self.blocks[:-1]:
            state_BLD = block(state_BLD, sides)
        final = self.blocks[-1]
        assert isinstance(final, Block)
        state_B1D = final.last(state_BLD, sides, length_B)
        return self._output(state_B1D[:, 0])

    def embed(self, inputs_NW: Tensor, history_BL: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the first running state [B, L, D] and each other source's vectors [B, L, S]."""
        width, side = self.config.width, self.config.side_width
        rows_BLW = nn.functional.embedding(history_BL, inputs_NW)
        parts = rows_BLW.split([width, *[side] * len(self.config.modalities)], dim=-1)
        sides = dict(zip(self.config.modalities, parts[1:], strict=True))
        if "position" in self.sides:
            sides["position"] = self.positions.weight[: history_BL.shape[1]][None]
        state_BLD = parts[0]
        if self.config.position_in_inputs:
            state_BLD = state_BLD + self.input_positions.weight[: history_BL.shape[1]]
        return self.dropout(self.input_norm(state_BLD)), sides

    def table(self, content: ItemContent, rows_n: Tensor | None = None) -> ItemRows:
        """Return the table rows of the whole catalogue, row 0 (padding) first, or of some rows."""
        return self.item_encoder.table(content, rows_n)

    def _output(self, state: Tensor) -> Tensor:
        """Return what is multiplied with the output vectors; its last dimension is D."""
        out: Tensor = self.output_norm(state)
        if self.config.score == "cosine":
            out = nn.functional.normalize(out, dim=-1) / self.config.score_temperature
        return out

    def _initialise(self) -> None:
        for block in self.blocks:
            assert isinstance(block, Block)
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=INIT_STD)
                    nn.init.zeros_(module.bias)
            block.attention.begin_as_sum()
        for name in ("positions", "input_positions"):
            if hasattr(self, name):
                nn.init.normal_(getattr(self, name).weight, std=INIT_STD)


def states_at_targets(state_BLD: Tensor, target_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return states [M, D] and targets [M] of the M positions that have a target (row > 0)."""
    has_target = target_BL > 0
    return state_BLD[has_target], target_BL[has_target]


def last_states(state_BLD: Tensor, length_B: Tensor) -> Tensor:
    """Return the state [B, D] at position length - 1."""
    return take(state_BLD, length_B[:, None] - 1)[:, 0]


def catalogue_scores(state_BD: Tensor, outputs_ND: Tensor) -> Tensor:
    """Return the score of every row [B, N + 1]; row 0 is padding and means nothing."""
    return state_BD @ outputs_ND.T


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
