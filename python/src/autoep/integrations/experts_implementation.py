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
        top_k_index: [T, K]. If the experts are part of a larger set, indices from `num_experts`
            on mean experts outside this part.
        top_k_weights: [T, K].

    Returns:
        [T, H] in the dtype of `hidden_states`.
    """
    spec = spec_of(experts)
    weights = weights_of(experts, spec)
    num_experts = weights.down.shape[0]
    # Before transformers 5.23 a module does not show whether it is a part.
    if getattr(experts, "_is_expert_parallel", True):
        top_k_index = top_k_index.masked_fill(top_k_index >= num_experts, -1)
    # Under autocast the weights' dtype counts, as in transformers.
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
