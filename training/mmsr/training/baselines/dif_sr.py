"""DIF-SR (Xie, Zhou, Kim, SIGIR 2022), with the defects of its published code mended.

As published: attention of the ids, of the positions and of every content source apart, all over
sqrt(d_h) of the id head; values from the ids alone; fusion by sum, or by a gate or a linear layer
that reads all keys and so is tied to max_length; post-norm blocks; positions not in the inputs.

Mended: the category table is trained; masked pairs are zero before the fusion, so that no row sees
a later item; hence every position can be trained on, where the paper trains on every prefix's last.
"""

# B batch, Q queries, L history length, N = max_length, D width, H heads, M sources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.attention import causal_mask
from mmsr.training.config import ModelConfig
from mmsr.training.items import INIT_STD, ModalityEncoder
from mmsr.training.model import SequentialRecommender, last_states

NORM_EPS = 1e-12  # as the published code


class Gate(nn.Module):
    """F[r] = sum_m g_m[r] A_m[r], g[r] = softmax over m of w2 ReLU(W1 A_m[r] + b1) + b2."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(max_length, max_length), nn.ReLU(), nn.Linear(max_length, 1)
        )

    def forward(self, scores_BHQMN: Tensor) -> Tensor:
        """Return [B, H, Q, N]."""
        gate_BHQM1 = self.score(scores_BHQMN).softmax(-2)
        fused_BHQN: Tensor = (gate_BHQM1 * scores_BHQMN).sum(-2)
        return fused_BHQN


class Concat(nn.Module):
    """F[r] = W [A_1[r]; ...; A_M[r]] + b, the weights shared by rows and heads."""

    def __init__(self, sources: int, max_length: int) -> None:
        super().__init__()
        self.mix = nn.Linear(sources * max_length, max_length)

    def forward(self, scores_BHQMN: Tensor) -> Tensor:
        """Return [B, H, Q, N]."""
        mixed: Tensor = self.mix(scores_BHQMN.flatten(-2))
        return mixed


class Sum(nn.Module):
    """F = sum_m A_m."""

    def forward(self, scores_BHQMN: Tensor) -> Tensor:
        """Return [B, H, Q, N]."""
        return scores_BHQMN.sum(-2)


class DifAttention(nn.Module):
    """Decoupled side information fusion: section 3.3 of the paper."""

    def __init__(self, config: ModelConfig, side_widths: dict[str, int]) -> None:
        super().__init__()
        self.heads, self.max_length = config.heads, config.max_length
        self.scale = (config.width // config.heads) ** -0.5
        widths = {"id": config.width, **side_widths}
        self.query = nn.ModuleDict({s: nn.Linear(w, w) for s, w in widths.items()})
        self.key = nn.ModuleDict({s: nn.Linear(w, w) for s, w in widths.items()})
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.fuse: nn.Module = Sum()
        if config.fusion == "gate":
            self.fuse = Gate(config.max_length)
        elif config.fusion == "concat":
            self.fuse = Concat(len(widths), config.max_length)

    def forward(self, state_BLD: Tensor, sides: dict[str, Tensor]) -> Tensor:
        """Return [B, L, D]; `sides` are [B, L, their width], a first dimension of 1 is broadcast.

        Histories are padded on the right, so the keys that a real row may see are all real.
        """
        length = state_BLD.shape[1]
        visible_LL = causal_mask(state_BLD)
        scores = [self._scores(source, x) for source, x in {"id": state_BLD, **sides}.items()]
        scores_BHQML = torch.stack(torch.broadcast_tensors(*scores), dim=-2)
        scores_BHQML = scores_BHQML.masked_fill(~visible_LL[:, None], 0.0)
        fused_BHQN = self.fuse(F.pad(scores_BHQML, (0, self.max_length - length)))
        fused_BHQL = (fused_BHQN[..., :length] * self.scale).masked_fill(~visible_LL, -torch.inf)
        weights_BHQL = self.dropout(fused_BHQL.softmax(-1))
        mixed_BHQD = weights_BHQL @ self._heads(self.value(state_BLD))
        out: Tensor = self.out(mixed_BHQD.transpose(1, 2).flatten(2))
        return out

    def _scores(self, source: str, x: Tensor) -> Tensor:
        q_BHQE, k_BHLE = self._heads(self.query[source](x)), self._heads(self.key[source](x))
        return q_BHQE @ k_BHLE.transpose(2, 3)

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)


class DifBlock(nn.Module):
    """Post-norm Transformer block."""

    def __init__(self, config: ModelConfig, side_widths: dict[str, int]) -> None:
        super().__init__()
        self.attention = DifAttention(config, side_widths)
        self.attention_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward_width),
            nn.GELU(),
            nn.Linear(config.feedforward_width, config.width),
        )
        self.feedforward_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, state_BLD: Tensor, sides: dict[str, Tensor]) -> Tensor:
        """Return the next state [B, L, D]; position i reads positions up to i only."""
        mixed_BLD = self.dropout(self.attention(state_BLD, sides))
        state_BLD = self.attention_norm(state_BLD + mixed_BLD)
        out: Tensor = self.feedforward_norm(state_BLD + self.dropout(self.feedforward(state_BLD)))
        return out


class DifSr(SequentialRecommender):
    """DIF-SR over the same item side, input layer and losses as the model it is compared with.

    The auxiliary attribute predictor of the paper is the category loss of `TrainingLoss`.
    """

    def __init__(self, config: ModelConfig, items: int, feature_widths: dict[str, int]) -> None:
        super().__init__(config, items, feature_widths)
        widths = dict.fromkeys(config.modalities, config.side_width)
        if "position" in self.sides:  # as wide as the ids: section 4.1 of the paper
            widths["position"] = config.width
            self.positions = nn.Embedding(config.max_length, config.width)
        self.blocks = nn.ModuleList(DifBlock(config, widths) for _ in range(config.blocks))
        self.input_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        # A post-norm block ends with its own.
        self.output_norm = nn.Identity()  # type: ignore[assignment]
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for encoder in self.item_encoder.modalities.values():
            assert isinstance(encoder, ModalityEncoder)
            encoder.missing_S.requires_grad_(False)  # stays zero
        self.item_encoder.content.requires_grad_(False)  # nothing but the attention reads content

    def last(self, inputs_NW: Tensor, history_BL: Tensor, length_B: Tensor) -> Tensor:
        """Return the state after the last item alone, [B, D]."""
        return last_states(self(inputs_NW, history_BL), length_B)
