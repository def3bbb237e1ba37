"""`load_balance_coeff`: balancing without an auxiliary loss (DeepSeek-V3, arXiv:2412.19437, 2.1.2).

The bias that a router adds to its scores for the selection only rises for experts with fewer
tokens than the mean, and falls for experts with more.
"""

from __future__ import annotations

import torch
from torch import nn

from autoep.errors import ModelError
from autoep.layers.selection_bias import selection_bias
from autoep.layers.spec import MoELayer


class BiasBalancer:
    """Moves the selection biases of a model's routers after each step.

    Attributes:
        biases: The biases, in the order of the layers.
    """

    def __init__(self, model: nn.Module, layers: list[MoELayer], coefficient: float) -> None:
        """Finds the biases.

        Args:
            model: The model; its checkpoints must hold the biases.
            layers: Its MoE layers, in the order of the counts.
            coefficient: The amount by which a bias moves per step.

        Raises:
            ModelError: A router has no such bias.
        """
        kept = set(model.state_dict(keep_vars=True).values())
        self.biases = [_bias_of(layer, kept) for layer in layers]
        self._coefficient = coefficient

    @torch.no_grad()
    def update(self, tokens_per_expert_LE: torch.Tensor) -> None:
        """Moves each bias towards an even load.

        Args:
            tokens_per_expert_LE: [layers, E], the step's sums over all ranks, equal on each.
        """
        for bias, counts in zip(self.biases, tokens_per_expert_LE, strict=True):
            load_E = counts[: bias.numel()].double()
            violation_E = load_E - load_E.mean()
            step_E = self._coefficient * violation_E.sign()
            bias.sub_(step_E.to(bias).view(bias.shape))


def _bias_of(layer: MoELayer, kept: set[torch.Tensor]) -> torch.Tensor:
    bias = selection_bias(layer.block, layer.num_experts)
    if bias is None:
        raise ModelError(
            f"expert_parallel.load_balance_coeff: the router of {layer.name}"
            f" ({layer.spec.family}) has no selection bias, such as `e_score_correction_bias` [E],"
            " that could be moved. Remove the key; to balance this model, use its auxiliary loss"
            " (output_router_logits=True)."
        )
    if bias.requires_grad:
        raise ModelError(
            f"expert_parallel.load_balance_coeff: the selection bias of {layer.name} is"
            " trained by the optimizer; freeze it, or remove the key"
        )
    if bias not in kept:
        raise ModelError(
            f"expert_parallel.load_balance_coeff: the selection bias of {layer.name} is not"
            " in the model's state_dict, so a checkpoint would lose it"
        )
    if bias.dtype.itemsize < 4:  # small steps would be rounded away
        bias.data = bias.data.float()
    return bias
