"""A router and its experts, in one call."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from autoep._arrays import Array, on_gpu
from autoep.functional._experts import experts, local_options
from autoep.functional._routing import route, route_options


class MoE(NamedTuple):
    """What a router and its experts give.

    Attributes:
        y: [T, H].
        logits: [T, E], of the router: for auxiliary losses, differentiable as y is.
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
    computing: Mapping[str, Any] | None = None,
) -> MoE:
    """Routes tokens by a linear map, and returns the weighted sum of their experts' results.

    What `x @ router.T`, `route` and `experts` give one after another, for a rank that is alone. On
    a GPU it is one operation: its first product begins sooner, and the gradient to x is one sum.

    Args:
        x: [T, H]; differentiable, as the weights are.
        router: [E, H], in the dtype of x.
        top_k: K, from 1 to E.
        gate_up: [E, G, H], or [E, H, G] for the layout "in_out".
        down: [E, H, F], or [E, F, H].
        gate_up_bias: [E, G] or None.
        down_bias: [E, H] or None.
        selection_bias: As in `route`.
        routing: Other options of `route`, by name.
        computing: Those of `experts`: activation, gate, layout, score_apply, swiglu_alpha and
            swiglu_limit.
    """
    routing, computing = routing or {}, computing or {}
    weights = (gate_up, gate_up_bias, down, down_bias)
    if on_gpu(x) and not sys.modules["torch"].is_autocast_enabled("cuda"):
        from autoep.functional._local_moe import local_moe

        route_as, compute_as = route_options(top_k, **routing), local_options(**computing)
        return MoE(*local_moe(route_as, compute_as, x, router, selection_bias, *weights))
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
