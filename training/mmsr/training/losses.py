"""The training losses, each one function, and their weighted sum."""

# M positions with a target, K of them that a loss looks at, N items, n negatives, D width,
# S side width, F features, C candidates

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.config import LossConfig, ModelConfig
from mmsr.training.items import ItemContent, ItemRows, ModalityEncoder, multi_hot_of
from mmsr.training.model import SequentialRecommender
from mmsr.training.negatives import Negatives
from mmsr.training.plan import Aim, Plan

# The sums below are over positions. Whoever asks divides by how many there are in all processes,
# so that several processes compute the gradient of one.


def catalogue_softmax(
    state_MD: Tensor, outputs_ND: Tensor, target_M: Tensor, unbought_N: Tensor | None = None
) -> Tensor:
    """Sum of the cross-entropies of the next item over the whole catalogue (row 0 excluded).

    L = -log softmax(E h)[target], full softmax with tied output vectors (DIF-SR section 3.4
    without its padding row). The softmax is computed in float32, whatever the scores are in.
    Items of `unbought_N` (bool [N + 1]) stand aside: that nobody bought them yet says nothing.
    """
    logits_MN = (state_MD @ outputs_ND[1:].T).float()
    if unbought_N is not None:
        logits_MN = logits_MN.masked_fill(unbought_N[1:], -torch.inf)
    return F.cross_entropy(logits_MN, target_M - 1, reduction="sum")


def sampled_softmax(
    state_MD: Tensor, wanted_MD: Tensor, target_M: Tensor, negatives: Negatives, outputs_nD: Tensor
) -> Tensor:
    """Sum of the cross-entropies of the next item over itself and n sampled negatives [n, D].

    L = -log(e^t / (e^t + sum_j e^(o_j - log(n q_j)))) where q_j is the chance that one draw gives
    negative j, and negatives equal to the target are left out. The sum is an unbiased estimate of
    the whole catalogue's (Bengio and Senecal 2008, eq. 9); the target stands in it with certainty,
    so it takes no correction (Khrylchenko et al., RecSys 2025).
    """
    target_logit_M1 = (state_MD * wanted_MD).sum(1, keepdim=True).float()
    logits_Mn = (state_MD @ outputs_nD.T).float() - negatives.log_expected_n
    logits_Mn = logits_Mn.masked_fill(target_M[:, None] == negatives.rows_n, -torch.inf)
    logits = torch.cat([target_logit_M1, logits_Mn], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target_M), reduction="sum")


def info_nce(
    predicted_KS: Tensor, candidate_CS: Tensor, right_K: Tensor, temperature: float
) -> Tensor:
    """Sum of InfoNCE (van den Oord et al. 2018, eq. 4) of unit vectors against C candidates.

    `right_K` says which candidate is right.
    """
    logits_KC = predicted_KS @ candidate_CS.T / temperature
    return F.cross_entropy(logits_KC, right_K, reduction="sum")


def cosine_loss(predicted_KF: Tensor, wanted_KF: Tensor) -> Tensor:
    """Sum of 1 - cos(predicted, wanted)."""
    return (1 - F.cosine_similarity(predicted_KF, wanted_KF, dim=1)).sum()


def squared_error(predicted_KF: Tensor, wanted_KF: Tensor) -> Tensor:
    """Sum of the mean squared differences."""
    return (predicted_KF - wanted_KF).square().mean(1).sum()


def category_loss(logits_KC: Tensor, wanted_KC: Tensor) -> Tensor:
    """Sum of the mean binary cross-entropies over the C categories of the next item (DIF-SR eq. 9
    as its code has it: a mean over categories, not a sum).
    """
    return F.binary_cross_entropy_with_logits(logits_KC, wanted_KC, reduction="none").mean(1).sum()


class TrainingLoss(nn.Module):
    """Softmax over the catalogue plus one weighted loss for each modality.

    Holds the predictors, which serve training only and are not exported. InfoNCE compares with the
    projected features of the next items; cosine and MSE with their standardised features, since
    a projection that is trained along could shrink to nothing.
    """

    unbought_N: Tensor | None

    def __init__(
        self,
        model: ModelConfig,
        loss: LossConfig,
        feature_widths: dict[str, int],
        counts_N: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`counts_N` [N + 1] says how often each row is bought in the training part; `dtype` is
        that of the blocks and of the scores of the catalogue, all else is float32.
        """
        super().__init__()
        self.config, self.dtype = loss, dtype
        unbought_N = counts_N == 0
        unbought_N[0] = False
        someone = unbought_N if bool(unbought_N.any()) else None
        self.register_buffer("unbought_N", someone, persistent=False)
        self.modalities = tuple(m for m in model.modalities if loss.weight(m) > 0)
        widths = {
            m: model.side_width if loss.kind(m) == "info_nce" else feature_widths[m]
            for m in self.modalities
        }
        self.predict = nn.ModuleDict({m: nn.Linear(model.width, w) for m, w in widths.items()})

    def forward(
        self, model: SequentialRecommender, content: ItemContent, plan: Plan
    ) -> dict[str, Tensor]:
        """Return the losses by name; "total" is their weighted sum.

        Each is the mean over its own positions; with several processes, the mean of what they
        return is that of all positions.
        """
        content = model.item_encoder.standardised(content)
        state_MD, item = self._item(model, content, plan)
        losses = {"item": item / plan.count}
        total = losses["item"]
        for modality in self.modalities:
            aim = plan.aims[modality]
            summed = self._modality(modality, model, content, state_MD, aim)
            losses[modality] = summed / (aim.count or 1.0)
            total = total + self.config.weight(modality) * losses[modality]
        return {"total": total, **losses}

    def _item(
        self, model: SequentialRecommender, content: ItemContent, plan: Plan
    ) -> tuple[Tensor, Tensor]:
        """Return the states [M, D] and the summed softmax loss.

        With sampled negatives, only the rows that the step reads are computed, whatever the size
        of the catalogue.
        """
        sample = plan.sample
        rows: ItemRows = model.table(content, None if sample is None else sample.row_R)
        history_BL = plan.history_BL if sample is None else sample.history_BL
        with self._autocast(history_BL):
            state_BLD = model(rows.inputs_nW, history_BL)
            state_MD = state_BLD.flatten(0, 1).index_select(0, plan.place_M)
            if sample is None:
                outputs_ND = rows.outputs_nD
                loss = catalogue_softmax(state_MD, outputs_ND, plan.target_M, self.unbought_N)
            else:
                outputs_RD = rows.outputs_nD
                wanted_MD, outputs_nD = outputs_RD[sample.wanted_M], outputs_RD[sample.negative_n]
                loss = sampled_softmax(
                    state_MD, wanted_MD, plan.target_M, sample.negatives, outputs_nD
                )
        return state_MD.float(), loss

    def _autocast(self, like: Tensor) -> AbstractContextManager[None]:
        low = self.dtype != torch.float32
        return torch.autocast(like.device.type, dtype=self.dtype, enabled=low)

    def _modality(
        self,
        modality: str,
        model: SequentialRecommender,
        content: ItemContent,
        state_MD: Tensor,
        aim: Aim,
    ) -> Tensor:
        predicted: Tensor = self.predict[modality](state_MD.index_select(0, aim.place_K))
        if len(aim.candidate_C) == 0:  # every parameter takes part in every step
            return predicted.sum()
        features_CF = content.features[modality][aim.candidate_C]
        kind = self.config.kind(modality)
        if kind == "bce":
            if not features_CF.is_floating_point():
                features_CF = multi_hot_of(features_CF, predicted.shape[1])
            return category_loss(predicted, features_CF[aim.right_K])
        encoder = model.item_encoder.modalities[modality]
        assert isinstance(encoder, ModalityEncoder)
        if kind != "info_nce":
            wanted_KF = features_CF[aim.right_K]
            return (cosine_loss if kind == "cosine" else squared_error)(predicted, wanted_KF)
        everyone = torch.ones(len(features_CF), dtype=torch.bool, device=features_CF.device)
        candidate_CS = F.normalize(encoder(features_CF, everyone), dim=1)
        return info_nce(
            F.normalize(predicted, dim=1), candidate_CS, aim.right_K, self.config.temperature
        )
