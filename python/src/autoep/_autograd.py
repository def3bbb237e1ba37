"""The operations as torch.autograd.Functions. Imported when a torch tensor is given.

Each calls the same forward and backward as numpy users do; here is only what autograd needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from autoep._first_order import first_order_only
from autoep._options import RouteOptions
from autoep._saved import is_kept_as_it_is, take_hidden
from autoep.comm import Communicator
from autoep.functional._all_to_all import all_to_all_backward, all_to_all_forward
from autoep.functional._experts import (
    OPTIONAL_GRADIENTS,
    ExpertsSaved,
    experts_backward,
    experts_forward,
)
from autoep.functional._grouped_gemm import (
    grouped_gemm_forward,
    rows_gradient,
    weight_gradient,
)
from autoep.functional._permutation import (
    permute_backward,
    permute_forward,
    unpermute_backward,
    unpermute_forward,
)
from autoep.functional._plan import Plan
from autoep.functional._routing import (
    jitter_backward,
    jitter_forward,
    route_forward,
    route_gradient,
    router_z_loss_backward,
    router_z_loss_forward,
    routing_of,
)

Tensor = torch.Tensor


class Route(torch.autograd.Function):
    """The weights are differentiable with respect to the logits; the choice is not."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, options: RouteOptions, logits: Tensor, selection_bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[T, E] to topk_idx [T, K], topk_weights [T, K], tokens_per_expert [E]."""
        idx_TK, weights_TK, counts_E = run_route(options, logits, selection_bias)
        ctx.options = options
        ctx.save_for_backward(logits, idx_TK)
        ctx.mark_non_differentiable(idx_TK, counts_E)
        return idx_TK, weights_TK, counts_E

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, _idx: Any, grad_weights: Tensor, _counts: Any) -> tuple:
        """[T, K] to [T, E]."""
        return None, run_route_backward(ctx.options, grad_weights, *ctx.saved_tensors), None


def run_route(
    options: RouteOptions, logits: Tensor, selection_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`route` outside of autograd, as an operator where it is traced."""
    if torch.compiler.is_compiling():
        return torch.ops.autoep.route(logits, selection_bias, *options)
    return route_forward(options, logits, selection_bias)


def run_route_backward(
    options: RouteOptions, grad_weights: Tensor, logits: Tensor, topk_idx: Tensor
) -> Tensor:
    """Its gradient to the logits, likewise."""
    if torch.compiler.is_compiling():
        return torch.ops.autoep.route_backward(grad_weights, logits, topk_idx, *options)
    return route_gradient(options, grad_weights, logits, topk_idx)


# What torch.compile puts into its graphs.
_library = torch.library.Library("autoep", "FRAGMENT")
_ROUTE_OPTIONS = (
    "int score, int top_k, int normalize, float normalize_epsilon, float scale, int group_score,"
    " int num_groups, int topk_groups, int training, int sinkhorn_iterations"
)
_library.define(
    f"route(Tensor logits, Tensor? selection_bias, {_ROUTE_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    f"route_backward(Tensor grad_weights, Tensor logits, Tensor topk_idx, {_ROUTE_OPTIONS})"
    " -> Tensor"
)


def _route(logits: Tensor, selection_bias: Tensor | None, *options: Any) -> tuple:
    return tuple(route_forward(RouteOptions(*options), logits, selection_bias))


def _route_backward(
    grad_weights: Tensor, logits: Tensor, topk_idx: Tensor, *options: Any
) -> Tensor:
    return route_gradient(RouteOptions(*options), grad_weights, logits, topk_idx)


def _route_results(logits: Tensor, _bias: Tensor | None, *options: Any) -> tuple:
    """What `route` returns, uninitialised."""
    return tuple(routing_of(logits, RouteOptions(*options).top_k))


_library.impl("route", _route, "CompositeExplicitAutograd")
_library.impl("route_backward", _route_backward, "CompositeExplicitAutograd")
torch.library.register_fake("autoep::route", _route_results, lib=_library)
torch.library.register_fake(
    "autoep::route_backward", lambda _, logits, *__: logits.new_empty(logits.shape), lib=_library
)


class RouterZLoss(torch.autograd.Function):
    """The mean over tokens of logsumexp(logits)²."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor) -> Tensor:
        """[T, E] to a scalar."""
        ctx.save_for_backward(logits)
        return router_z_loss_forward(logits)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_loss: Tensor) -> Tensor:
        """A scalar to [T, E]."""
        return router_z_loss_backward(grad_loss, *ctx.saved_tensors)


class Jitter(torch.autograd.Function):
    """Noise that seed and place determine, so nothing is saved."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, epsilon: float, seed: int) -> Tensor:
        """[T, H] to [T, H]."""
        ctx.noise = (epsilon, seed)
        return jitter_forward(x, epsilon, seed)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[T, H] to [T, H]."""
        return jitter_backward(grad_y, *ctx.noise), None, None


class Permute(torch.autograd.Function):
    """Tokens to rows in expert order."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, row_of_slot: Tensor) -> Tensor:
        """[T, H] to [N, H]."""
        ctx.save_for_backward(row_of_slot)
        return permute_forward(x, row_of_slot)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_rows: Tensor) -> tuple:
        """[N, H] to [T, H]."""
        return permute_backward(grad_rows, *ctx.saved_tensors), None


class Unpermute(torch.autograd.Function):
    """Rows in expert order to tokens."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, rows: Tensor, row_of_slot: Tensor, topk_weights: Tensor | None
    ) -> Tensor:
        """[N, H] to [T, H]."""
        # The rows are read for the gradient to the weights only.
        saved_rows = None if topk_weights is None else rows
        ctx.save_for_backward(saved_rows, row_of_slot, topk_weights)
        return unpermute_forward(rows, row_of_slot, topk_weights)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[T, H] to [N, H] and [T, K]."""
        grad_rows, grad_weights = unpermute_backward(grad_y, *ctx.saved_tensors)
        return grad_rows, None, grad_weights


class GroupedGEMM(torch.autograd.Function):
    """Rows times the weight of their group."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, rows: Tensor, weights: Tensor, rows_per_group: Tensor, layout: str
    ) -> Tensor:
        """[R, in] to [R, out]."""
        ctx.save_for_backward(rows, weights, rows_per_group)
        ctx.layout = layout
        return grouped_gemm_forward(rows, weights, rows_per_group, layout)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple:
        """[R, out] to [R, in] and the shape of the weights."""
        rows, weights, rows_per_group = ctx.saved_tensors
        grad_rows = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_rows = rows_gradient(grad_out, weights, rows_per_group, ctx.layout)
        if ctx.needs_input_grad[1]:
            grad_weights = weight_gradient(grad_out, rows, weights, rows_per_group, ctx.layout)
        return grad_rows, grad_weights, None, None


class AllToAll(torch.autograd.Function):
    """Rows to their ranks; the gradients travel back."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        send_rows: list[int],
        receive_rows: list[int],
        comm: Communicator,
    ) -> Tensor:
        """[sum of send_rows, ...] to [sum of receive_rows, ...]."""
        ctx.splits = (send_rows, receive_rows)
        ctx.comm = comm
        return all_to_all_forward(x, send_rows, receive_rows, comm)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[sum of receive_rows, ...] to [sum of send_rows, ...]."""
        return all_to_all_backward(grad_y, *ctx.splits, comm=ctx.comm), None, None, None


class Experts(torch.autograd.Function):
    """The experts path. Its backward is collective: no rank leaves it out."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        plan: Plan,
        x: Tensor,
        topk_weights: Tensor,
        gate_up: Tensor,
        gate_up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
    ) -> Tensor:
        """[T, H] to [T, H]."""
        y, saved = experts_forward(
            x,
            topk_weights,
            gate_up,
            down,
            gate_up_bias=gate_up_bias,
            down_bias=down_bias,
            plan=plan,
        )
        ctx.plan = plan
        ctx.is_hidden_ours = is_kept_as_it_is()
        ctx.save_for_backward(*saved[1:])
        return y

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[T, H] to the gradients of the tensors, in their order."""
        saved = ExpertsSaved(ctx.plan, *ctx.saved_tensors)
        needed = dict(zip(OPTIONAL_GRADIENTS, ctx.needs_input_grad[2:], strict=True))
        wanted = [name for name, is_needed in needed.items() if is_needed]
        overwrite = take_hidden(ctx, saved.hidden)
        gradients = experts_backward(grad_y, saved, wanted=wanted, overwrite_saved=overwrite)
        return None, *gradients
