"""What is exported: the inference form of the model, as modules that `torch.onnx` can read."""

# B batch, L history length, C table rows, D width, W columns of the input table, n items

from torch import Tensor, nn

from mmsr.export.folding import FoldedModel, RowFolder
from mmsr.training.config import ModelConfig
from mmsr.training.items import ItemContent
from mmsr.training.model import SequentialRecommender


class StateGraph(nn.Module):
    """Histories in, the states after their last items out; `scoring_tail` ranks the items by them.

    The last block computes the last position only. The item table is an input: a retrain or a new
    item changes it and not the graph. `folded`: whether its rows are `RowFolder`'s.
    """

    def __init__(self, model: SequentialRecommender, folded: bool) -> None:
        super().__init__()
        self.model: FoldedModel | SequentialRecommender = FoldedModel(model) if folded else model

    def forward(self, history: Tensor, length: Tensor, item_inputs: Tensor) -> Tensor:
        """Return the states [B, D].

        history int64 [B, L] right-padded with row 0, length int64 [B], item_inputs [C, W].
        """
        state_BD: Tensor = self.model.last(item_inputs, history, length)
        return state_BD


class ItemGraph(nn.Module):
    """One item's content in, its table rows out: every trained item-side weight but the id table.

    The inputs are, in this order, what `item_input_names` lists. `folded`: whether the rows hold
    the blocks' queries and keys as well.
    """

    def __init__(self, model: SequentialRecommender, folded: bool) -> None:
        super().__init__()
        self.encoder = model.item_encoder
        self.fold = RowFolder(model) if folded else nn.Identity()

    def forward(self, id_row: Tensor, id_table: Tensor, *content: Tensor) -> tuple[Tensor, Tensor]:
        """Return item_inputs [n, W] (folded: [n, T]) and item_outputs [n, D].

        id_row int64 [n], a row of id_table [N + 1, D]; row 0 is the vector of an item without
        trained id. `content`: for each modality features [n, F] and present bool [n].
        """
        modalities = self.encoder.config.modalities
        rows = self.encoder(
            id_table[id_row],
            ItemContent(
                features=dict(zip(modalities, content[0::2], strict=True)),
                present=dict(zip(modalities, content[1::2], strict=True)),
            ),
        )
        return self.fold(rows.inputs_nW), rows.outputs_nD


def item_input_names(config: ModelConfig) -> list[str]:
    """Return the names of the item graph's inputs, in order."""
    content = [name for m in config.modalities for name in (m, f"{m}_present")]
    return ["id_row", "id_table", *content]
