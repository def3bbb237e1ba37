"""Routing as an autograd operation, and as operators in the graphs of torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from autoep.core.options import RouteOptions
from autoep.functional._first_order import first_order_only
from autoep.functional._routing import route_forward, route_gradient, routing_of
from autoep.functional._torch_schema import arguments_of, library

Tensor = torch.Tensor


class Route(torch.autograd.Function):
    """The weights are differentiable with respect to the logits; topk_idx is not."""

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
    """Runs `route` outside autograd; under torch.compile, as an operator."""
    if torch.compiler.is_compiling():
        return torch.ops.autoep.route(logits, selection_bias, *options)
    return route_forward(options, logits, selection_bias)


def run_route_backward(
    options: RouteOptions, grad_weights: Tensor, logits: Tensor, topk_idx: Tensor
) -> Tensor:
    """Returns the gradient of `route` to the logits; under torch.compile, as an operator."""
    if torch.compiler.is_compiling():
        return torch.ops.autoep.route_backward(grad_weights, logits, topk_idx, *options)
    return route_gradient(options, grad_weights, logits, topk_idx)


_ROUTE_OPTIONS = arguments_of(RouteOptions)
library.define(
    f"route(Tensor logits, Tensor? selection_bias, {_ROUTE_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
library.define(
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
    """Allocates the results of `route`."""
    return tuple(routing_of(logits, RouteOptions(*options).top_k))


library.impl("route", _route, "CompositeExplicitAutograd")
library.impl("route_backward", _route_backward, "CompositeExplicitAutograd")
torch.library.register_fake("autoep::route", _route_results, lib=library)
torch.library.register_fake(
    "autoep::route_backward", lambda _, logits, *__: logits.new_empty(logits.shape), lib=library
)
