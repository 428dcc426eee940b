"""Which sources an attention has, what is left when one is out, and where the last block looks.

A source s is left out by taking its attention out of the fusion of every block: A_s = 0 at every
pair of positions. Nothing else changes:

* sum: F is the sum of the other sources' A.
* gate: the gates are computed as ever, that of s among them, from the state as it is (by the id
  query, also where the source `id` is out); the share of s is not spread over the others.
* concat: the mix reads zeros in the channels of s; its bias stays.
* The item vectors stay: what image, text and category add to the values (`content_in_values`) and
  to the output vectors (`content_in_outputs`), and what positions add to the inputs
  (`position_in_inputs`), is no attention. So leaving a modality out tells what looking by it
  changes, not what the item's content is worth to the score.

The source `id` is the running state's own attention: it is there whether ids are trained or not.
This is the reference of a bundle's explain.onnx, which gets there another way.
"""

# B batch, L history length, D width, N items, W columns of the input table

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmsr.training.attention import Block
from mmsr.training.model import SequentialRecommender, last_states


def sources_of(model: SequentialRecommender) -> tuple[str, ...]:
    """Return the sources of the model's attention, in its order; the running state is `id`."""
    return ("id", *model.sides)


@torch.no_grad()
def read_without(
    model: SequentialRecommender,
    inputs_NW: Tensor,
    history_BL: Tensor,
    length_B: Tensor,
    source: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the state after the last item [B, D] and where the last block looks from it [B, L].

    `source`: the one that is left out; None leaves all in. The attention is the mean over the
    heads, sums to 1 over the history and is 0 on the padding. The model is in evaluation mode;
    `ValueError` for a source that it does not have.
    """
    if source is not None and source not in sources_of(model):
        raise ValueError(f"source {source!r}; the model has {', '.join(sources_of(model))}")
    reading = _Reading(model)
    # With the keys, the source's A is zero; its queries stay, for the gate reads those of the id.
    silent = {
        name: torch.zeros_like(parameter)
        for name, parameter in reading.named_parameters()
        if f".attention.key.{source}." in name
    }
    states_BLD, attention_BLL = functional_call(reading, silent, (inputs_NW, history_BL))
    return last_states(states_BLD, length_B), last_states(attention_BLL, length_B)


class _Reading(nn.Module):
    """The full forward pass, with the last block's attention beside it."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs_NW: Tensor, history_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state after every position [B, L, D] and the attention [B, L, L]."""
        state_BLD, sides = self.model.embed(inputs_NW, history_BL)
        for block in self.model.blocks[:-1]:
            state_BLD = block(state_BLD, sides)
        final = self.model.blocks[-1]
        assert isinstance(final, Block)
        _, fused_BHLL = final.weights(state_BLD, sides)
        return self.model._output(final(state_BLD, sides)), fused_BHLL.mean(1)
