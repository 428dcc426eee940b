"""Attention computed per source and fused.

A_s = (X_s W_q)(X_s W_k)^T / sqrt(S / heads) for every source s, F = fuse(A_1, ..., A_M), masked,
softmax, times values (DIF-SR eq. 4-6 with the paper's own scale per source; reconstruction of arXiv
2405.17959). X_id is the running state, the other sources are constant over the blocks.

* sum: F = sum_s A_s. The sum of products is the product of concatenations, so all sources are one
  matmul: [Q_id; Q_img; ...][K_id; K_img; ...]^T.
* gate: F = sum_s g_s A_s, g = softmax over the sources of a linear map of the row's id query, per
  head. The gate folds into Q_s, so it is the same single matmul.
* concat: a 1x1 mix over the M x H channels at each (query, key) pair; begins as the sum.

DIF-SR's own gate and concat read the whole key axis before the mask and so see later items; here
the masked pairs are taken out first. Nothing depends on the length.
"""

# B batch, Q queries, L keys, D width, S side width, H heads, M sources,
# E = per-head width of all sources

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.config import ModelConfig


class FusedAttention(nn.Module):
    """Attention over the id path and the constant sources."""

    def __init__(self, config: ModelConfig, sides: tuple[str, ...]) -> None:
        super().__init__()
        self.heads, self.sides, self.fusion = config.heads, sides, config.fusion
        self.dropout = config.attention_dropout
        self.widths = {"id": config.width, **dict.fromkeys(sides, config.side_width)}
        self.query = nn.ModuleDict({s: nn.Linear(w, w) for s, w in self.widths.items()})
        self.key = nn.ModuleDict({s: nn.Linear(w, w) for s, w in self.widths.items()})
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        channels = len(self.widths) * self.heads
        if self.fusion == "gate":
            self.gate = nn.Linear(config.width, channels)
        elif self.fusion == "concat":
            self.mix = nn.Linear(channels, self.heads)

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
        dimension of 1 is broadcast); `visible` is bool, broadcastable to [B, 1, Q, L].
        """
        q_BHQE = self._queries(query_BQD, side_queries)
        k_BHLE = torch.cat(self._parts(self.key, keys_BLD, side_keys), dim=-1)
        v_BHLD = self._heads(self.value(keys_BLD))
        if self.fusion == "concat":
            weights_BHQL = self._mixed(q_BHQE, k_BHLE, visible).softmax(-1)
            mixed_BHQD = F.dropout(weights_BHQL, self.dropout, self.training) @ v_BHLD
        else:
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

    def weights(
        self, state_BLD: Tensor, sides: dict[str, Tensor], visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the attention of every source alone [B, M, H, L, L] and the fused [B, H, L, L].

        For looking at, not for training: each is softmaxed over the visible keys. A gated source
        is shown with its gate.
        """
        q_BHQE = self._queries(state_BLD, sides)
        k_BHLE = torch.cat(self._parts(self.key, state_BLD, sides), dim=-1)
        alone_BMHQL = self._per_source(q_BHQE, k_BHLE)
        if self.fusion == "concat":
            fused_BHQL = self._mixed(q_BHQE, k_BHLE, visible)
        else:
            fused_BHQL = alone_BMHQL.sum(1)
        alone_BMHQL = alone_BMHQL.masked_fill(~visible, -torch.inf).softmax(-1)
        return alone_BMHQL, fused_BHQL.masked_fill(~visible, -torch.inf).softmax(-1)

    def begin_as_sum(self) -> None:
        """Set the weights of the fusion to where it is the (gated: the mean) sum of the sources."""
        if self.fusion == "gate":
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        elif self.fusion == "concat":
            same_head = torch.eye(self.heads).repeat(1, len(self.widths))
            self.mix.weight.data.copy_(same_head)
            nn.init.zeros_(self.mix.bias)

    def _queries(self, state_BQD: Tensor, sides: dict[str, Tensor]) -> Tensor:
        parts = [q * q.shape[-1] ** -0.5 for q in self._parts(self.query, state_BQD, sides)]
        if self.fusion == "gate":
            parts = [q * g for q, g in zip(parts, self.gates(state_BQD), strict=True)]
        return torch.cat(parts, dim=-1)

    def gates(self, state_BQD: Tensor) -> tuple[Tensor, ...]:
        """Return the gate of each source, in the order of `widths`, [B, H, Q, 1]."""
        gate_BQMH = self.gate(self.query["id"](state_BQD)).unflatten(-1, (-1, self.heads))
        gates: tuple[Tensor, ...] = gate_BQMH.softmax(-2).permute(2, 0, 3, 1)[..., None].unbind(0)
        return gates

    def _parts(
        self, layers: nn.ModuleDict, state: Tensor, sides: dict[str, Tensor]
    ) -> list[Tensor]:
        """Return each source's queries or keys, [B, H, L, its width per head]."""
        inputs = {"id": state, **{s: sides[s] for s in self.sides}}
        return [
            self._heads(layers[source](x)).expand(state.shape[0], -1, -1, -1)
            for source, x in inputs.items()
        ]

    def _per_source(self, q_BHQE: Tensor, k_BHLE: Tensor) -> Tensor:
        """Return the unmasked A_s, [B, M, H, Q, L]."""
        ends = [0]
        for width in self.widths.values():
            ends.append(ends[-1] + width // self.heads)
        parts = [q_BHQE[..., a:b] @ k_BHLE[..., a:b].transpose(2, 3) for a, b in pairwise(ends)]
        return torch.stack(parts, dim=1)

    def _mixed(self, q_BHQE: Tensor, k_BHLE: Tensor, visible: Tensor) -> Tensor:
        channels = self._per_source(q_BHQE, k_BHLE).flatten(1, 2).masked_fill(~visible, 0.0)
        mixed_BQLH: Tensor = self.mix(channels.movedim(1, -1))
        return mixed_BQLH.movedim(-1, 1).masked_fill(~visible, -torch.inf)

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
        normed_BLD = self.attention_norm(state_BLD)
        visible = causal_mask(state_BLD)
        mixed_BLD = self.attention(normed_BLD, normed_BLD, sides, sides, visible)
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

    def weights(self, state_BLD: Tensor, sides: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return each source's attention and the fused one; see `FusedAttention.weights`."""
        return self.attention.weights(self.attention_norm(state_BLD), sides, causal_mask(state_BLD))

    def _finish(self, state: Tensor, mixed: Tensor) -> Tensor:
        state = state + self.dropout(mixed)
        out: Tensor = state + self.dropout(self.feedforward(self.feedforward_norm(state)))
        return out


def causal_mask(state_BLD: Tensor) -> Tensor:
    """Return bool [L, L]: position i sees positions up to i."""
    length = state_BLD.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=state_BLD.device).tril()


def take(x_BLD: Tensor, at_BQ: Tensor) -> Tensor:
    """Return [B, Q, D], the rows of `x_BLD` at the positions `at_BQ`."""
    return torch.gather(x_BLD, 1, at_BQ[:, :, None].expand(-1, -1, x_BLD.shape[2]))
