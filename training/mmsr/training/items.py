"""The item side of the model: features and ids in, table rows out.

Knows nothing of sequences. What it computes for an item depends on that item alone, so the rows
can be computed once at export and again, item by item, while serving.
"""

# n items of one call, D width, S side width, F features of a modality, C categories

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsr.training.config import ModelConfig

INIT_STD = 0.02  # as BERT and DIF-SR
CONTENT_STD = 0.1  # content begins louder than the ids, which have yet to learn anything
DENSE_PER_LISTED = 8  # a listed category costs about as much as so many places of a multi-hot
MIN_STD = 1e-6  # a constant feature is only centred
MIN_VARIANCE = 1e-4  # of the largest: directions with less are not blown up by whitening


@dataclass(frozen=True, kw_only=True)
class ItemContent:
    """What is known of n items besides their ids. A modality that is not in use is absent."""

    # image, text: float32 [n, F]; category: multi-hot float32 [n, C], or `category_lists` of it
    features: dict[str, Tensor]
    present: dict[str, Tensor]  # bool [n]; false: the item lacks the modality
    standardised: bool = False  # whether the features went through `ItemEncoder.standardised`

    def rows(self, rows_n: Tensor) -> "ItemContent":
        """Return the content of some items only."""
        return replace(
            self,
            features={m: x[rows_n] for m, x in self.features.items()},
            present={m: p[rows_n] for m, p in self.present.items()},
        )


@dataclass(frozen=True, kw_only=True)
class ItemRows:
    """Everything that the sequence side reads of n items."""

    inputs_nW: Tensor  # [n, W]: the input vector (D), then each modality's vector (S each)
    outputs_nD: Tensor
    sides: dict[str, Tensor]  # per modality [n, S], the same that stand in inputs_nW


class ModalityEncoder(nn.Module):
    """Frozen features of one modality -> [n, S]; a learned vector where it is missing.

    E_s = x W + b on standardised or whitened features (image, text), multi-hot(c) M (category;
    DIF-SR section 3.2, with M trained).
    """

    mean_F: Tensor
    std_F: Tensor
    whiten_FF: Tensor

    def __init__(self, features: int, side_width: int, standardise: bool, whiten: bool) -> None:
        super().__init__()
        self.standardise, self.whiten = standardise, standardise and whiten
        self.project = nn.Linear(features, side_width, bias=standardise)
        self.missing_S = nn.Parameter(torch.zeros(side_width))
        self.register_buffer("mean_F", torch.zeros(features))
        if self.whiten:
            self.register_buffer("whiten_FF", torch.eye(features))
        else:
            self.register_buffer("std_F", torch.ones(features))
        # Standardised features have unit variance, a multi-hot a few ones: either way the
        # projected vectors begin with entries of about CONTENT_STD.
        fan_in = features if standardise else 1
        nn.init.normal_(self.project.weight, std=CONTENT_STD / fan_in**0.5)

    def fit_statistics(self, features_nF: Tensor, present_n: Tensor) -> None:
        """Learn mean and deviation (or covariance) from the items that have the modality."""
        if not self.standardise or not bool(present_n.any()):
            return
        known = features_nF[present_n].double()
        self.mean_F.copy_(known.mean(0))
        if self.whiten:
            variances, directions_FF = torch.linalg.eigh(torch.cov(known.T, correction=0))
            floor = max(float(variances.max()) * MIN_VARIANCE, MIN_STD**2)
            self.whiten_FF.copy_(directions_FF / variances.clamp_min(floor).sqrt())
        else:
            self.std_F.copy_(known.std(0, correction=0).clamp_min(MIN_STD))

    def standardised(self, features_nF: Tensor) -> Tensor:
        """Return the features with zero mean and unit variance, uncorrelated if whitened."""
        if not self.standardise:
            return features_nF
        centred_nF = features_nF - self.mean_F
        return centred_nF @ self.whiten_FF if self.whiten else centred_nF / self.std_F

    def forward(self, standardised_nF: Tensor, present_n: Tensor) -> Tensor:
        """Return [n, S]."""
        if standardised_nF.is_floating_point():
            known_nS = self.project(standardised_nF)
        else:
            known_nS = _sum_of_rows(standardised_nF, self.project.weight)
        return torch.where(present_n[:, None], known_nS, self.missing_S)


class ItemEncoder(nn.Module):
    """Item ids and content -> table rows.

    Row 0 of the id table is padding in a sequence, and for an item it means "unknown by id": the
    vector that an item without trained id gets, learned through id dropout. Without the id source
    the whole table is zero and stays so.
    """

    def __init__(self, config: ModelConfig, items: int, feature_widths: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.untrained_are_forgotten = False  # set by `untrained`, for good
        self.ids = nn.Embedding(items + 1, config.width)
        if "id" in config.sources:
            nn.init.normal_(self.ids.weight, std=INIT_STD)
        else:
            nn.init.zeros_(self.ids.weight)
            self.ids.weight.requires_grad_(False)
        side, whiten = config.side_width, config.whiten
        self.modalities = nn.ModuleDict(
            {
                m: ModalityEncoder(feature_widths[m], side, m != "category", whiten)
                for m in config.modalities
            }
        )
        self.content = nn.ModuleDict(
            {m: nn.Linear(config.side_width, config.width, bias=False) for m in config.modalities}
        )

    def standardised(self, content: ItemContent) -> ItemContent:
        """Return the content as the projections read it; done once, it need not be done a step."""
        if content.standardised:
            return content
        features = {}
        for modality, encoder in self.modalities.items():
            assert isinstance(encoder, ModalityEncoder)
            features[modality] = encoder.standardised(content.features[modality])
        return replace(content, features=features, standardised=True)

    def forward(self, id_nD: Tensor, content: ItemContent) -> ItemRows:
        """Combine id vectors [n, D] with content; n is any number of items."""
        content = self.standardised(content)
        sides = {
            m: encoder(content.features[m], content.present[m])
            for m, encoder in self.modalities.items()
        }
        inputs_nD = outputs_nD = id_nD
        if sides:
            content_nD = torch.stack([self.content[m](x) for m, x in sides.items()]).sum(0)
            if self.config.content_in_values:
                inputs_nD = id_nD + content_nD
            if self.config.content_in_outputs:
                outputs_nD = id_nD + content_nD
        if self.config.score == "cosine":
            outputs_nD = F.normalize(outputs_nD, dim=1)
        return ItemRows(
            inputs_nW=torch.cat([inputs_nD, *sides.values()], dim=1),
            outputs_nD=outputs_nD,
            sides=sides,
        )

    def table(self, content: ItemContent, rows_n: Tensor | None = None) -> ItemRows:
        """Return the rows of the whole catalogue, row 0 (padding) first, or of `rows_n` only.

        In training, ids and modalities are dropped per item, so that their absence is learned.
        """
        id_nD = self.ids.weight
        if rows_n is not None:
            id_nD, content = self.ids(rows_n), content.rows(rows_n)
        if self.training:
            id_nD = self._drop_ids(id_nD)
            present = {m: self._drop_modality(m, p) for m, p in content.present.items()}
            content = replace(content, present=present)
        rows: ItemRows = self(id_nD, content)
        return rows

    def _drop_ids(self, id_nD: Tensor) -> Tensor:
        if self.config.id_dropout == 0:
            return id_nD
        drop_n = torch.rand(len(id_nD), 1, device=id_nD.device) < self.config.id_dropout
        return torch.where(drop_n, self.ids.weight[:1], id_nD)

    def _drop_modality(self, modality: str, present_n: Tensor) -> Tensor:
        chance = self.config.missing_chance(modality)
        if chance == 0:
            return present_n
        return present_n & (torch.rand(len(present_n), device=present_n.device) >= chance)


def with_category_lists(content: ItemContent) -> ItemContent:
    """Return the content with the categories in the form that takes less to train on.

    A few rows of M are summed instead of multiplying a multi-hot that is nearly all zeros: with
    1,216 categories, at most a dozen an item, a quarter of a step.
    """
    multi_hot_nC = content.features.get("category")
    if multi_hot_nC is None or not multi_hot_nC.is_floating_point():
        return content
    most = int((multi_hot_nC > 0).sum(1).max())
    if most * DENSE_PER_LISTED > multi_hot_nC.shape[1]:
        return content
    lists_nM = category_lists(multi_hot_nC, max(1, most))
    return replace(content, features={**content.features, "category": lists_nM})


def category_lists(multi_hot_nC: Tensor, width: int) -> Tensor:
    """Return int64 [n, width]: each row's categories, then C until it is full."""
    items, categories = multi_hot_nC.shape
    row_T, category_T = multi_hot_nC.nonzero(as_tuple=True)
    count_n = torch.bincount(row_T, minlength=items)
    column_T = torch.arange(len(row_T), device=row_T.device) - (count_n.cumsum(0) - count_n)[row_T]
    lists_nM = row_T.new_full((items, width), categories)
    lists_nM[row_T, column_T] = category_T
    return lists_nM


def multi_hot_of(lists_nM: Tensor, categories: int) -> Tensor:
    """Return the float32 [n, categories] that `category_lists` was made of."""
    padded = torch.zeros(len(lists_nM), categories + 1, device=lists_nM.device)
    return padded.scatter_(1, lists_nM, 1.0)[:, :-1]


def _sum_of_rows(lists_nM: Tensor, weight_SC: Tensor) -> Tensor:
    """Return [n, S], what the multi-hot of the lists times the transposed weight is."""
    table_CS = F.pad(weight_SC.T, (0, 0, 0, 1))
    return F.embedding_bag(lists_nM, table_CS, mode="sum", padding_idx=len(table_CS) - 1)


def category_multi_hot(rows: list[list[int]], categories: int) -> Tensor:
    """Return float32 [len(rows), categories]; a category named twice counts once."""
    multi_hot = torch.zeros(len(rows), categories)
    flat = [(r, c) for r, row in enumerate(rows) for c in row]
    if flat:
        index = torch.tensor(flat).T
        multi_hot[index[0], index[1]] = 1.0
    return multi_hot
