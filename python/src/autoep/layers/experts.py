"""Running the experts of a module by their spec, on one rank or several.

Shapes: T tokens, H hidden size, F expert FFN size, G = 2F with a gate and F without, K experts
per token, E experts, e of this rank.
"""

from __future__ import annotations

import torch
from torch import nn

from autoep import functional
from autoep.distributed.communicator import Communicator
from autoep.functional import ExpertsWeights
from autoep.layers.parameters import local_shard
from autoep.layers.spec import MoELayerSpec, own_activation
from autoep.layers.unfused import composed_experts


def weights_of(experts: nn.Module, spec: MoELayerSpec) -> ExpertsWeights:
    """Returns the current weights of a module."""
    names = (spec.gate_up, spec.gate_up_bias, spec.down, spec.down_bias)
    return ExpertsWeights(
        *(None if name is None else local_shard(_attribute(experts, name)) for name in names)
    )


def run_experts(
    experts: nn.Module,
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    *,
    num_experts: int,
    spec: MoELayerSpec,
    comm: Communicator | None = None,
    weights: ExpertsWeights | None = None,
) -> torch.Tensor:
    """Computes the weighted sum of each token's experts, [T, H]; collective.

    Args:
        experts: A module with this rank's experts.
        x_TH: [T, H].
        topk_idx_TK: [T, K], each in [0, num_experts), or -1 for no expert; identity experts, if
            any, have the indices from num_experts on.
        topk_weights_TK: [T, K].
        num_experts: E, over all ranks, without identity experts.
        spec: The description of the experts.
        comm: The ranks; None for a single rank.
        weights: The weights to use; None for the module's.
    """
    weights = weights_of(experts, spec) if weights is None else weights
    if not spec.identity_experts:
        return _compute(
            experts, x_TH, topk_idx_TK, topk_weights_TK, weights, num_experts, comm, spec
        )
    is_identity_TK = topk_idx_TK >= num_experts
    others_TK = topk_idx_TK.masked_fill(is_identity_TK, -1)
    y_TH = _compute(experts, x_TH, others_TK, topk_weights_TK, weights, num_experts, comm, spec)
    wide = torch.promote_types(topk_weights_TK.dtype, x_TH.dtype)
    kept_T1 = topk_weights_TK.to(wide).masked_fill(~is_identity_TK, 0.0).sum(1, keepdim=True)
    return y_TH + x_TH * kept_T1.to(x_TH.dtype)


def _compute(
    experts: nn.Module,
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    weights: ExpertsWeights,
    num_experts: int,
    comm: Communicator | None,
    spec: MoELayerSpec,
) -> torch.Tensor:
    """Computes the experts that have weights; collective."""
    if not spec.fused():
        return composed_experts(
            x_TH,
            topk_idx_TK,
            topk_weights_TK,
            weights,
            num_experts=num_experts,
            comm=comm,
            layout=spec.layout,
            score_apply=spec.score_apply,
            activate=own_activation(experts, spec.gate),
            normalize=None if spec.post_norm is None else experts.get_submodule(spec.post_norm),
        )
    return functional.experts(
        x_TH,
        topk_idx_TK,
        topk_weights_TK,
        **weights._asdict(),
        num_experts=num_experts,
        comm=comm,
        **spec.computing(),
    )


def _attribute(experts: nn.Module, path: str) -> torch.Tensor:
    """Returns a weight by its dotted path; `get_parameter` would refuse a computed one."""
    owner, _, name = path.rpartition(".")
    return getattr(experts.get_submodule(owner), name)
