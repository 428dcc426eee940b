"""Attention computed per source and fused, as one attention.

A_s = (X_s W_q)(X_s W_k)^T / sqrt(S / heads) for every source s, F = sum_s A_s, masked, softmax,
times values (DIF-SR eq. 4-6 with the paper's own scale per source; reconstruction of arXiv
2405.17959). Because the sum of the products is the product of the concatenations, all sources are
one matmul: [Q_id; Q_img; ...][K_id; K_img; ...]^T. Nothing here depends on the length.
"""

# B batch, Q queries, L keys, D width, S side width, H heads, E = per-head width of all sources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.config import ModelConfig


class FusedAttention(nn.Module):
    """Sum-fused attention over the id path and the constant sources."""

    def __init__(self, config: ModelConfig, sides: tuple[str, ...]) -> None:
        super().__init__()
        self.heads, self.sides = config.heads, sides
        self.dropout = config.dropout
        widths = {"id": config.width, **dict.fromkeys(sides, config.side_width)}
        self.query = nn.ModuleDict({s: nn.Linear(w, w) for s, w in widths.items()})
        self.key = nn.ModuleDict({s: nn.Linear(w, w) for s, w in widths.items()})
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self,
        query_BQD: Tensor,
        keys_BLD: Tensor,
        side_queries: dict[str, Tensor],
        side_keys: dict[str, Tensor],
        visible: Tensor,
    ) -> Tensor:
        """Return [B, Q, D].

        `side_queries` [B, Q, S] and `side_keys` [B, L, S] hold one tensor a source (a first
        dimension of 1 is broadcast); `visible` is bool, broadcastable to [B, H, Q, L].
        """
        q_BHQE = self._project(self.query, query_BQD, side_queries, scaled=True)
        k_BHLE = self._project(self.key, keys_BLD, side_keys, scaled=False)
        v_BHLD = self._heads(self.value(keys_BLD))
        mixed_BHQD = F.scaled_dot_product_attention(
            q_BHQE,
            k_BHLE,
            v_BHLD,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        out: Tensor = self.out(mixed_BHQD.transpose(1, 2).flatten(2))
        return out

    def _project(
        self, layers: nn.ModuleDict, state: Tensor, sides: dict[str, Tensor], scaled: bool
    ) -> Tensor:
        parts = []
        for source, x in {"id": state, **{s: sides[s] for s in self.sides}}.items():
            part = self._heads(layers[source](x))
            if scaled:
                part = part * part.shape[-1] ** -0.5
            parts.append(part.expand(state.shape[0], -1, -1, -1))
        return torch.cat(parts, dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)


class Block(nn.Module):
    """Pre-norm Transformer block over the running state."""

    def __init__(self, config: ModelConfig, sides: tuple[str, ...]) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = FusedAttention(config, sides)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward_width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward_width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, state_BLD: Tensor, sides: dict[str, Tensor]) -> Tensor:
        """Return the next state [B, L, D]; position i reads positions up to i only."""
        length = state_BLD.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=state_BLD.device).tril()
        normed_BLD = self.attention_norm(state_BLD)
        mixed_BLD = self.attention(normed_BLD, normed_BLD, sides, sides, causal)
        return self._finish(state_BLD, mixed_BLD)

    def last(self, state_BLD: Tensor, sides: dict[str, Tensor], length_B: Tensor) -> Tensor:
        """Return the next state [B, 1, D] of position length - 1 alone."""
        at_B1 = length_B[:, None] - 1
        normed_BLD = self.attention_norm(state_BLD)
        side_queries = {
            s: take(x.expand(state_BLD.shape[0], -1, -1), at_B1) for s, x in sides.items()
        }
        steps_L = torch.arange(state_BLD.shape[1], device=state_BLD.device)
        visible_B11L = (steps_L < length_B[:, None])[:, None, None, :]
        mixed_B1D = self.attention(
            take(normed_BLD, at_B1), normed_BLD, side_queries, sides, visible_B11L
        )
        return self._finish(take(state_BLD, at_B1), mixed_B1D)

    def _finish(self, state: Tensor, mixed: Tensor) -> Tensor:
        state = state + self.dropout(mixed)
        out: Tensor = state + self.dropout(self.feedforward(self.feedforward_norm(state)))
        return out


def take(x_BLD: Tensor, at_BQ: Tensor) -> Tensor:
    """Return [B, Q, D], the rows of `x_BLD` at the positions `at_BQ`."""
    return torch.gather(x_BLD, 1, at_BQ[:, :, None].expand(-1, -1, x_BLD.shape[2]))
