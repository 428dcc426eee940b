"""The training losses, each one function."""

# M positions with a target, N items, D width, S side width, C categories

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.config import LossConfig, ModelConfig
from mmsr.training.items import ItemContent, ItemRows, ModalityEncoder
from mmsr.training.model import SequentialRecommender, states_at_targets


def catalogue_softmax(state_MD: Tensor, outputs_ND: Tensor, target_M: Tensor) -> Tensor:
    """Cross-entropy of the next item over the whole catalogue (row 0 excluded).

    L = -log softmax(E h)[target], full softmax with tied output vectors (DIF-SR section 3.4
    without its padding row).
    """
    logits_MN = state_MD @ outputs_ND[1:].T
    return F.cross_entropy(logits_MN, target_M - 1)


def info_nce(
    predicted_MS: Tensor, wanted_KS: Tensor, index_M: Tensor, temperature: float
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, eq. 4) of unit vectors against K candidates.

    `index_M` says which candidate is right.
    """
    return F.cross_entropy(predicted_MS @ wanted_KS.T / temperature, index_M)


def category_loss(logits_MC: Tensor, wanted_MC: Tensor, present_M: Tensor) -> Tensor:
    """Mean binary cross-entropy over the categories of the next item (DIF-SR eq. 9 as its code
    has it: a mean, not a sum). Items without categories take no part.
    """
    losses_MC = F.binary_cross_entropy_with_logits(logits_MC, wanted_MC, reduction="none")
    weight_M1 = present_M[:, None].to(losses_MC.dtype)
    return (losses_MC * weight_M1).sum() / (weight_M1.sum().clamp_min(1) * losses_MC.shape[1])


class TrainingLoss(nn.Module):
    """Catalogue softmax plus one weighted loss for each modality.

    Holds the predictors, which serve training only and are not exported.
    """

    def __init__(self, model: ModelConfig, loss: LossConfig, categories: int) -> None:
        super().__init__()
        self.config = loss
        self.modalities = tuple(m for m in model.modalities if loss.weight(m) > 0)
        widths = {m: categories if m == "category" else model.side_width for m in self.modalities}
        self.predict = nn.ModuleDict({m: nn.Linear(model.width, w) for m, w in widths.items()})

    def forward(
        self,
        model: SequentialRecommender,
        content: ItemContent,
        history_BL: Tensor,
        target_BL: Tensor,
    ) -> dict[str, Tensor]:
        """Return the losses by name; "total" is their weighted sum. Targets of 0 are ignored."""
        rows: ItemRows = model.table(content)
        state_BLD = model(rows.inputs_nW, history_BL)
        state_MD, target_M = states_at_targets(state_BLD, target_BL)
        losses = {"item": catalogue_softmax(state_MD, rows.outputs_nD, target_M)}
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
        # The candidates are the distinct next items of the sampled positions.
        candidates_K, index_M = torch.unique(target_M[chosen], return_inverse=True)
        encoder = model.item_encoder.modalities[modality]
        assert isinstance(encoder, ModalityEncoder)
        everyone = torch.ones_like(candidates_K, dtype=torch.bool)
        wanted_KS = encoder(content.features[modality][candidates_K], everyone)
        predicted_MS = self.predict[modality](state_MD[chosen])
        return info_nce(
            F.normalize(predicted_MS, dim=1),
            F.normalize(wanted_KS, dim=1),
            index_M,
            self.config.temperature,
        )
