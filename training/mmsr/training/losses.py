"""The training losses, each one function, and their weighted sum."""

# M positions with a target, N items, n negatives, D width, S side width, F features, C categories

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.config import LossConfig, ModelConfig
from mmsr.training.items import ItemContent, ItemRows, ModalityEncoder
from mmsr.training.model import SequentialRecommender, states_at_targets
from mmsr.training.negatives import Negatives, NegativeSampler


def catalogue_softmax(state_MD: Tensor, outputs_ND: Tensor, target_M: Tensor) -> Tensor:
    """Cross-entropy of the next item over the whole catalogue (row 0 excluded).

    L = -log softmax(E h)[target], full softmax with tied output vectors (DIF-SR section 3.4
    without its padding row).
    """
    logits_MN = state_MD @ outputs_ND[1:].T
    return F.cross_entropy(logits_MN, target_M - 1)


def sampled_softmax(
    state_MD: Tensor, wanted_MD: Tensor, target_M: Tensor, negatives: Negatives, outputs_nD: Tensor
) -> Tensor:
    """Cross-entropy of the next item over itself and n sampled negatives [n, D].

    L = -log(e^t / (e^t + sum_j e^(o_j - log(n q_j)))) where q_j is the chance that one draw gives
    negative j, and negatives equal to the target are left out. The sum is an unbiased estimate of
    the whole catalogue's (Bengio and Senecal 2008, eq. 9); the target stands in it with certainty,
    so it takes no correction (Khrylchenko et al., RecSys 2025).
    """
    target_logit_M1 = (state_MD * wanted_MD).sum(1, keepdim=True)
    logits_Mn = state_MD @ outputs_nD.T - negatives.log_expected_n
    logits_Mn = logits_Mn.masked_fill(target_M[:, None] == negatives.rows_n, -torch.inf)
    logits = torch.cat([target_logit_M1, logits_Mn], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target_M))


def info_nce(
    predicted_MS: Tensor, wanted_KS: Tensor, index_M: Tensor, temperature: float
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, eq. 4) of unit vectors against K candidates.

    `index_M` says which candidate is right.
    """
    return F.cross_entropy(predicted_MS @ wanted_KS.T / temperature, index_M)


def cosine_loss(predicted_MF: Tensor, wanted_MF: Tensor) -> Tensor:
    """Mean of 1 - cos(predicted, wanted)."""
    return (1 - F.cosine_similarity(predicted_MF, wanted_MF, dim=1)).mean()


def category_loss(logits_MC: Tensor, wanted_MC: Tensor, present_M: Tensor) -> Tensor:
    """Mean binary cross-entropy over the categories of the next item (DIF-SR eq. 9 as its code
    has it: a mean, not a sum). Items without categories take no part.
    """
    losses_MC = F.binary_cross_entropy_with_logits(logits_MC, wanted_MC, reduction="none")
    weight_M1 = present_M[:, None].to(losses_MC.dtype)
    return (losses_MC * weight_M1).sum() / (weight_M1.sum().clamp_min(1) * losses_MC.shape[1])


class TrainingLoss(nn.Module):
    """Softmax over the catalogue plus one weighted loss for each modality.

    Holds the predictors, which serve training only and are not exported. InfoNCE compares with the
    projected features of the next items; cosine and MSE with their standardised features, since
    a projection that is trained along could shrink to nothing.
    """

    def __init__(
        self,
        model: ModelConfig,
        loss: LossConfig,
        feature_widths: dict[str, int],
        counts_N: Tensor,
    ) -> None:
        """`counts_N` [N + 1]: how often each row is bought in the training part."""
        super().__init__()
        self.config = loss
        self.modalities = tuple(m for m in model.modalities if loss.weight(m) > 0)
        widths = {
            m: model.side_width if loss.kind(m) == "info_nce" else feature_widths[m]
            for m in self.modalities
        }
        self.predict = nn.ModuleDict({m: nn.Linear(model.width, w) for m, w in widths.items()})
        self.sampler = (
            NegativeSampler(counts_N, loss.negatives_power) if loss.softmax == "sampled" else None
        )

    def forward(
        self,
        model: SequentialRecommender,
        content: ItemContent,
        history_BL: Tensor,
        target_BL: Tensor,
    ) -> dict[str, Tensor]:
        """Return the losses by name; "total" is their weighted sum. Targets of 0 are ignored."""
        content = model.item_encoder.standardised(content)
        if self.sampler is None:
            rows: ItemRows = model.table(content)
            state_MD, target_M = states_at_targets(model(rows.inputs_nW, history_BL), target_BL)
            losses = {"item": catalogue_softmax(state_MD, rows.outputs_nD, target_M)}
        else:
            negatives = self.sampler(self.config.negatives)
            state_MD, target_M, loss = _sampled(model, content, history_BL, target_BL, negatives)
            losses = {"item": loss}
        total = losses["item"]
        for modality in self.modalities:
            losses[modality] = self._modality(modality, model, content, state_MD, target_M)
            total = total + self.config.weight(modality) * losses[modality]
        return {"total": total, **losses}

    def _modality(
        self,
        modality: str,
        model: SequentialRecommender,
        content: ItemContent,
        state_MD: Tensor,
        target_M: Tensor,
    ) -> Tensor:
        present_M = content.present[modality][target_M]
        if modality == "category":
            logits_MC = self.predict[modality](state_MD)
            return category_loss(logits_MC, content.features[modality][target_M], present_M)
        chosen = torch.nonzero(present_M)[:, 0]
        if len(chosen) == 0:
            return state_MD.sum() * 0.0
        chosen = chosen[torch.randperm(len(chosen), device=chosen.device)]
        chosen = chosen[: self.config.sampled_positions]
        encoder = model.item_encoder.modalities[modality]
        assert isinstance(encoder, ModalityEncoder)
        # The candidates are the distinct next items of the sampled positions.
        candidates_K, index_M = torch.unique(target_M[chosen], return_inverse=True)
        features_KF = content.features[modality][candidates_K]
        return self._feature_loss(
            modality, encoder, self.predict[modality](state_MD[chosen]), features_KF, index_M
        )

    def _feature_loss(
        self,
        modality: str,
        encoder: ModalityEncoder,
        predicted_M: Tensor,
        features_KF: Tensor,
        index_M: Tensor,
    ) -> Tensor:
        kind = self.config.kind(modality)
        if kind != "info_nce":
            wanted_MF = features_KF[index_M]
            return (cosine_loss if kind == "cosine" else F.mse_loss)(predicted_M, wanted_MF)
        everyone = torch.ones(len(features_KF), dtype=torch.bool, device=features_KF.device)
        wanted_KS = encoder(features_KF, everyone)
        return info_nce(
            F.normalize(predicted_M, dim=1),
            F.normalize(wanted_KS, dim=1),
            index_M,
            self.config.temperature,
        )


def _sampled(
    model: SequentialRecommender,
    content: ItemContent,
    history_BL: Tensor,
    target_BL: Tensor,
    negatives: Negatives,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return states [M, D], targets [M] and the sampled softmax.

    Only the rows that this step reads are computed, whatever the size of the catalogue.
    """
    parts = [history_BL.flatten(), target_BL.flatten(), negatives.rows_n]
    padding = torch.zeros_like(history_BL[0, :1])
    used_K, at = torch.unique(torch.cat([padding, *parts]), return_inverse=True)
    rows = model.table(content, used_K)
    history_at, target_at, negative_at = at[1:].split([len(p) for p in parts])
    state_BLD = model(rows.inputs_nW, history_at.view_as(history_BL))
    state_MD, target_M = states_at_targets(state_BLD, target_BL)
    wanted_MD = rows.outputs_nD[target_at.view_as(target_BL)[target_BL > 0]]
    loss = sampled_softmax(state_MD, wanted_MD, target_M, negatives, rows.outputs_nD[negative_at])
    return state_MD, target_M, loss
