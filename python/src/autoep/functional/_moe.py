"""A router and its experts, in one call."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from autoep.core.arrays import Array, check_array, on_gpu, same_kind
from autoep.core.options import Computing, ExpertsWeights
from autoep.errors import InvalidArgumentError
from autoep.functional._experts import check_tensors, experts, options_of
from autoep.functional._routing import route, route_options
from autoep.functional._torch_op import torch_op


class MoE(NamedTuple):
    """The results of a router and its experts.

    Attributes:
        y: [T, H].
        logits: [T, E], the router's: for auxiliary losses, differentiable like y.
        topk_idx: [T, K] int32.
        tokens_per_expert: [E] int32.
    """

    y: Array
    logits: Array
    topk_idx: Array
    tokens_per_expert: Array


def moe(
    x: Array,
    router: Array,
    top_k: int,
    gate_up: Array,
    down: Array,
    *,
    gate_up_bias: Array | None = None,
    down_bias: Array | None = None,
    selection_bias: Array | None = None,
    routing: Mapping[str, Any] | None = None,
    computing: Computing | None = None,
) -> MoE:
    """Routes tokens by a linear map, and returns the weighted sum of their experts' results.

    Equals `x @ router.T`, `route` and `experts` in sequence, on a single rank. On a GPU it is one
    operation: its first product starts sooner, and the gradient of x is a single sum.

    Args:
        x: [T, H]; differentiable, like the weights.
        router: [E, H], in the dtype of x.
        top_k: K, from 1 to E.
        gate_up: [E, G, H], or [E, H, G] for the layout "in_out".
        down: [E, H, F], or [E, F, H].
        gate_up_bias: [E, G] or None.
        down_bias: [E, H] or None.
        selection_bias: As in `route`.
        routing: Other options of `route`, by name.
        computing: Options of `experts`: activation, gate, layout, score_apply, swiglu_alpha and
            swiglu_limit.
    """
    routing, computing = routing or {}, computing or {}
    weights = ExpertsWeights(gate_up, gate_up_bias, down, down_bias)
    check_tensors(x, weights, router=router)
    if selection_bias is not None:
        check_array("selection_bias", selection_bias, 1)
        same_kind("x", x, selection_bias=selection_bias)
    if router.shape[0] != gate_up.shape[0]:
        raise InvalidArgumentError(
            f"router: expected a row for each of {gate_up.shape[0]} experts, got {router.shape[0]}"
        )
    route_as = route_options(top_k, **routing)
    if on_gpu(x) and not sys.modules["torch"].is_autocast_enabled("cuda"):
        compute_as = options_of(x, route_as.top_k, weights, None, None, computing)
        return MoE(*torch_op("moe")(route_as, compute_as, x, router, selection_bias, weights))
    logits = x @ router.T
    routed = route(logits, top_k, selection_bias=selection_bias, **routing)
    y = experts(
        x,
        routed.topk_idx,
        routed.topk_weights,
        gate_up,
        down,
        gate_up_bias=gate_up_bias,
        down_bias=down_bias,
        **computing,
    )
    return MoE(y, logits, routed.topk_idx, routed.tokens_per_expert)
