"""`experts_implementation="autoep"`: the engine's experts, in one process."""

from __future__ import annotations

import torch
from torch import nn

from autoep.integrations.remembered_spec import spec_of
from autoep.layers.experts import run_experts, weights_of


def experts_forward(
    experts: nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Computes the experts of a layer, as transformers' own implementations do.

    Args:
        experts: The experts module.
        hidden_states: [T, H].
        top_k_index: [T, K]. Where the experts are a part of a larger set, `num_experts` and
            above stand for those that are not among them.
        top_k_weights: [T, K].

    Returns:
        [T, H] in the dtype of `hidden_states`.
    """
    spec = spec_of(experts)
    weights = weights_of(experts, spec)
    num_experts = weights.down.shape[0]
    # Before transformers 5.23 a module does not tell whether it is a part.
    if getattr(experts, "_is_expert_parallel", True):
        top_k_index = top_k_index.masked_fill(top_k_index >= num_experts, -1)
    # Under autocast the weights' dtype decides, as in transformers.
    y_TH = run_experts(
        experts,
        hidden_states.to(weights.down.dtype),
        top_k_index,
        top_k_weights,
        num_experts=num_experts,
        spec=spec,
        weights=weights,
    )
    return y_TH.to(hidden_states.dtype)
