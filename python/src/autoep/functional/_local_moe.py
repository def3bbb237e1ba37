"""A router and its experts on one GPU, as one operation of autograd.

Imported when a CUDA tensor is given. Legend: T tokens, K experts a token, E experts, H hidden size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.autograd.function import FunctionCtx

from autoep._autograd import run_route, run_route_backward
from autoep._first_order import first_order_only
from autoep._native import engine
from autoep._options import RouteOptions, integer
from autoep._saved import is_kept_as_it_is
from autoep.errors import InvalidArgumentError
from autoep.functional._local_experts import (
    Options,
    check,
    dense,
    dtype_of,
    forward,
    gradients,
    run_forward,
)
from autoep.functional._runtime import context_of

Tensor = torch.Tensor
# x, router, selection_bias, gate_up, gate_up_bias, down and down_bias.
Tensors = tuple[Tensor | None, ...]


def local_moe(
    route_as: RouteOptions, compute_as: Options, x: Tensor, router: Tensor, *others: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes what `functional.moe` documents, on one GPU.

    Args:
        route_as: How to choose.
        compute_as: What the experts compute, in the engine's numbers.
        x: [T, H].
        router: [E, H].
        *others: selection_bias, gate_up, gate_up_bias, down and down_bias.

    Returns:
        y [T, H], logits [T, E], topk_idx [T, K] and tokens_per_expert [E].
    """
    selection_bias, gate_up, gate_up_bias, down, down_bias = others
    check(
        x=x,
        router=router,
        selection_bias=selection_bias,
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
    )
    if len(router) != len(gate_up):
        raise InvalidArgumentError(
            f"router: expected a row for each of {len(gate_up)} experts, got {len(router)}"
        )
    dtype_of(x)  # Before anything is made of it.
    tensors = (x, router, *others)
    # Before autograd begins: the device is waiting.
    computed = None if torch.compiler.is_compiling() else compute(route_as, compute_as, tensors)
    return LocalMoE.apply(route_as, compute_as, computed, *tensors)


class Computed(NamedTuple):
    """What the forward leaves: its results, and what only the backward reads."""

    y: Tensor  # [T, H]
    logits: Tensor  # [T, E]
    topk_idx: Tensor  # [T, K]
    topk_weights: Tensor  # [T, K]
    tokens_per_expert: Tensor  # [E]
    hidden: Tensor
    routing: Tensor


def compute(route_as: RouteOptions, compute_as: Options, tensors: Tensors) -> Computed:
    """The forward, outside of autograd."""
    x, router, selection_bias, *weights = tensors
    logits, idx, scores = choose(route_as, x, router, selection_bias)
    # The experts count their rows in any case.
    counts = x.new_empty((router.shape[0],), dtype=torch.int32)
    y, hidden, routing = forward(x, idx, scores, *weights, *compute_as, tokens_per_expert=counts)
    return Computed(y, logits, idx, scores, counts, hidden, routing)


def trace(route_as: RouteOptions, compute_as: Options, tensors: Tensors) -> Computed:
    """The same as operators that a compiler sees."""
    x, router, selection_bias, *weights = tensors
    logits = torch.mm(x, router.t())
    idx, scores, counts = run_route(route_as, logits, selection_bias)
    y, hidden, routing = run_forward(x, idx, scores, *weights, *compute_as)
    return Computed(y, logits, idx, scores, counts, hidden, routing)


def choose(
    options: RouteOptions, x: Tensor, router: Tensor, selection_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The router's logits [T, E], the choice [T, K] and its weights [T, K]."""
    tokens, experts = x.shape[0], router.shape[0]
    top_k = integer("top_k", options.top_k, 1, max(experts, 1))
    results = (
        x.new_empty((tokens, experts)),
        x.new_empty((tokens, top_k), dtype=torch.int32),
        x.new_empty((tokens, top_k), dtype=torch.float32),
    )
    engine.router_forward(
        context_of(x), options, dense(x), dense(router), dense(selection_bias), *results, None
    )
    return results


class LocalMoE(torch.autograd.Function):
    """Keeps what the router and the experts keep; the gradient of x is one sum of both."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        route_as: RouteOptions,
        compute_as: Options,
        computed: Computed | None,
        x: Tensor,
        router: Tensor,
        selection_bias: Tensor | None,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[T, H] to y [T, H], logits [T, E], topk_idx [T, K] and tokens_per_expert [E]."""
        if computed is None:
            computed = trace(route_as, compute_as, (x, router, selection_bias, *weights))
        y, logits_TE, idx_TK, scores_TK, counts_E, hidden, routing = computed
        ctx.save_for_backward(x, router, logits_TE, idx_TK, scores_TK, *weights, hidden, routing)
        ctx.mark_non_differentiable(idx_TK, counts_E)
        ctx.set_materialize_grads(False)
        ctx.route_options, ctx.options, ctx.buffers = route_as, compute_as, None
        ctx.is_hidden_ours = is_kept_as_it_is()
        return y, logits_TE, idx_TK, counts_E

    @staticmethod
    @first_order_only
    def backward(
        ctx: FunctionCtx, grad_y: Tensor | None, grad_logits_own: Tensor | None, *_: None
    ) -> tuple:
        """[T, H] and [T, E] to the gradients of the tensors, in their order."""
        x, router, logits_TE, idx_TK, scores_TK, *weights, hidden, routing = ctx.saved_tensors
        wants_x, wants_router, _, *wanted = ctx.needs_input_grad[3:]
        is_routed = wants_x or wants_router
        if grad_y is None:
            grad_y = torch.zeros_like(x)
        grad_x, grad_scores, *grad_weights = gradients(
            *(ctx, grad_y, x, scores_TK, weights, hidden, routing, (wants_x, is_routed, *wanted))
        )
        grad_router = None
        if is_routed:
            grad_logits = run_route_backward(ctx.route_options, grad_scores, logits_TE, idx_TK)
            if grad_logits_own is not None:
                grad_logits = grad_logits + grad_logits_own
            if wants_x:
                grad_x.addmm_(grad_logits, router)
            if wants_router:
                grad_router = torch.mm(grad_logits.t(), x)
        return None, None, None, grad_x, grad_router, None, *grad_weights
