"""The operations of a Mixture-of-Experts layer, each usable by itself.

On torch tensors each operation is differentiable. On numpy arrays (float32, float64) it returns
numpy arrays, torch need not be installed, and the function `<name>_backward` returns the gradients.

Shapes, here and in every function: T tokens of this rank, H hidden size, F expert FFN size,
E experts, K experts per token, P ranks, e experts of this rank, R rows of this rank's experts,
G = 2F for gated experts and F for plain ones. Slot (t, k) is the k-th choice of token t; N = T*K.
"""

from __future__ import annotations

from autoep.core.contexts import (
    Statistics,
    num_threads,
    reset_statistics,
    set_num_threads,
    statistics,
)
from autoep.core.options import Activation, Computing, ExpertsWeights, Gate, Layout, ScoreApply
from autoep.functional._all_to_all import all_to_all, all_to_all_backward, exchange_counts
from autoep.functional._dispatch import (
    Dispatched,
    combine,
    combine_backward,
    dispatch,
    dispatch_backward,
)
from autoep.functional._experts import (
    ExpertsGradients,
    ExpertsSaved,
    GradBuffers,
    experts,
    experts_backward,
    experts_forward,
)
from autoep.functional._grouped_gemm import grouped_gemm, grouped_gemm_backward
from autoep.functional._moe import MoE, moe
from autoep.functional._permutation import (
    Permuted,
    permute,
    permute_backward,
    sort_by_expert,
    unpermute,
    unpermute_backward,
)
from autoep.functional._plan import Plan, expert_range, experts_plan
from autoep.functional._routing import (
    Routing,
    jitter,
    jitter_backward,
    route,
    route_backward,
    router_z_loss,
    router_z_loss_backward,
)
from autoep.functional._torch_op import Operations, load_operations_with

__all__ = [
    "Activation",
    "Computing",
    "Dispatched",
    "ExpertsGradients",
    "ExpertsSaved",
    "ExpertsWeights",
    "Gate",
    "GradBuffers",
    "Layout",
    "MoE",
    "Permuted",
    "Plan",
    "Routing",
    "ScoreApply",
    "Statistics",
    "all_to_all",
    "all_to_all_backward",
    "combine",
    "combine_backward",
    "dispatch",
    "dispatch_backward",
    "exchange_counts",
    "expert_range",
    "experts",
    "experts_backward",
    "experts_forward",
    "experts_plan",
    "grouped_gemm",
    "grouped_gemm_backward",
    "jitter",
    "jitter_backward",
    "moe",
    "num_threads",
    "permute",
    "permute_backward",
    "reset_statistics",
    "route",
    "route_backward",
    "router_z_loss",
    "router_z_loss_backward",
    "set_num_threads",
    "sort_by_expert",
    "statistics",
    "unpermute",
    "unpermute_backward",
]


def _load_torch_operations() -> Operations:
    from autoep.functional._torch import OPERATIONS

    return OPERATIONS


load_operations_with(_load_torch_operations)
