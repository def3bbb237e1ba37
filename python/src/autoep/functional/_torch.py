"""The operations as torch.autograd.Functions. Imported when a torch tensor is given.

Each calls the forward and backward that numpy users call, and adds what autograd needs. The
operations of a layer are in `_torch_layer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from autoep.distributed.communicator import Communicator
from autoep.functional import _torch_layer
from autoep.functional._all_to_all import all_to_all_backward, all_to_all_forward
from autoep.functional._first_order import first_order_only
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
from autoep.functional._routing import (
    jitter_backward,
    jitter_forward,
    router_z_loss_backward,
    router_z_loss_forward,
)
from autoep.functional._torch_route import Route

Tensor = torch.Tensor


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
    """Noise that the seed and the position determine, so nothing is saved."""

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
        # The rows are needed only for the gradient of the weights.
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


OPERATIONS: dict[str, Callable[..., Any]] = {
    "route": Route.apply,
    "router_z_loss": RouterZLoss.apply,
    "jitter": Jitter.apply,
    "permute": Permute.apply,
    "unpermute": Unpermute.apply,
    "grouped_gemm": GroupedGEMM.apply,
    "all_to_all": AllToAll.apply,
    "autocast": _torch_layer.autocast,
    "plan": _torch_layer.plan,
    "experts": _torch_layer.experts,
    "moe": _torch_layer.moe,
    "dispatch": _torch_layer.dispatch,
    "combine": _torch_layer.combine,
}
