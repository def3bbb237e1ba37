"""Routing tokens to experts: top-k, the router z-loss and the jitter."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from autoep.core.arrays import Array, dtype_name, empty, is_torch, plain, same_kind
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import GROUP_SCORES, SCORES, RouteOptions, enum_value, integer, real
from autoep.errors import InvalidArgumentError
from autoep.functional._torch_op import torch_op

_UINT64_MAX = 2**64 - 1


class Routing(NamedTuple):
    """The experts of each token.

    Attributes:
        topk_idx: [T, K] int32, the experts of each token, by decreasing score.
        topk_weights: [T, K] float32 (float64 for float64 logits), their weights.
        tokens_per_expert: [E] int32.
    """

    topk_idx: Array
    topk_weights: Array
    tokens_per_expert: Array


def route(
    logits: Array,
    top_k: int,
    *,
    score: Literal["softmax", "topk_softmax", "sigmoid", "sinkhorn"] = "softmax",
    normalize: bool = False,
    normalize_epsilon: float = 1e-20,
    scale: float = 1.0,
    selection_bias: Array | None = None,
    group_score: Literal["max", "top2_sum"] | None = None,
    num_groups: int = 1,
    topk_groups: int = 1,
    training: bool = True,
    sinkhorn_iterations: int = 3,
) -> Routing:
    """Chooses `top_k` experts for each token. Ties go to the lowest index.

    Args:
        logits: [T, E] float32, float64, bfloat16 or float16; computed in float32 (float64 for
            float64). The weights are differentiable with respect to it.
        top_k: K, from 1 to E.
        score: "softmax": over E, then top-k. "topk_softmax": top-k of the logits, then softmax
            over the K. "sigmoid": of each logit, then top-k. "sinkhorn": in training the choice
            comes from Sinkhorn-normalised logits, otherwise from the logits; the weights are the
            sigmoid for K = 1 and the softmax over E otherwise.
        normalize: Whether to divide the weights by their sum over K plus `normalize_epsilon`.
        normalize_epsilon: See `normalize`.
        scale: Multiplies the weights last.
        selection_bias: [E] float32 or float64, added to the scores for the selection only.
        group_score: Limits a token to its best groups of experts, for "softmax" and "sigmoid". The
            score of a group is that of its best expert ("max") or of its two best ("top2_sum").
        num_groups: The number of groups; divides E.
        topk_groups: The number of groups that a token may use.
        training: For "sinkhorn", whether to balance the choice.
        sinkhorn_iterations: For "sinkhorn", from 1 to 3.

    Returns:
        The experts, the weights and the number of tokens per expert.

    Raises:
        InvalidArgumentError: A logit is NaN or +inf, or an option is invalid.
    """
    options = route_options(
        top_k,
        score=score,
        normalize=normalize,
        normalize_epsilon=normalize_epsilon,
        scale=scale,
        group_score=group_score,
        num_groups=num_groups,
        topk_groups=topk_groups,
        training=training,
        sinkhorn_iterations=sinkhorn_iterations,
    )
    if is_torch(logits):
        return Routing(*torch_op("route")(options, logits, selection_bias))
    return route_forward(options, logits, selection_bias)


def route_backward(
    grad_topk_weights: Array, logits: Array, topk_idx: Array, **options: Any
) -> Array:
    """Returns the gradient of `route` to the logits, [T, E] in their dtype.

    Args:
        grad_topk_weights: [T, K] in the dtype of the weights.
        logits: [T, E], as given to `route`.
        topk_idx: [T, K], from `route`.
        **options: The options given to `route`, without `top_k` and `selection_bias`.
    """
    chosen_TK = plain("topk_idx", topk_idx, 2)
    checked = route_options(chosen_TK.shape[1], **options)
    return route_gradient(checked, grad_topk_weights, logits, chosen_TK)


def route_options(
    top_k: int,
    *,
    score: str = "softmax",
    normalize: bool = False,
    normalize_epsilon: float = 1e-20,
    scale: float = 1.0,
    group_score: str | None = None,
    num_groups: int = 1,
    topk_groups: int = 1,
    training: bool = True,
    sinkhorn_iterations: int = 3,
) -> RouteOptions:
    """Checks the types of the options of `route`; the engine checks whether they fit."""
    if group_score is None and (num_groups, topk_groups) != (1, 1):
        raise InvalidArgumentError(
            f"num_groups: {num_groups!r} groups, of which a token may use {topk_groups!r}, need a"
            " group_score: pass 'max' or 'top2_sum'"
        )
    return RouteOptions(
        score=enum_value("score", score, SCORES),
        top_k=integer("top_k", top_k, 1),
        normalize=int(bool(normalize)),
        normalize_epsilon=real("normalize_epsilon", normalize_epsilon),
        scale=real("scale", scale),
        group_score=enum_value("group_score", group_score, GROUP_SCORES),
        num_groups=integer("num_groups", num_groups, 1),
        topk_groups=integer("topk_groups", topk_groups, 1),
        training=int(bool(training)),
        sinkhorn_iterations=integer("sinkhorn_iterations", sinkhorn_iterations, 1),
    )


def route_forward(options: RouteOptions, logits: Array, selection_bias: Array | None) -> Routing:
    """Routes outside autograd; `route` documents the arguments."""
    logits_TE = plain("logits", logits, 2)
    bias_E = None if selection_bias is None else plain("selection_bias", selection_bias, 1)
    same_kind("logits", logits, selection_bias=selection_bias)
    # The engine checks K too, but only after the results are allocated.
    integer("top_k", options.top_k, 1, max(logits_TE.shape[1], 1))
    routing = routing_of(logits_TE, options.top_k)
    engine.route(context_of(logits_TE), options, logits_TE, bias_E, *routing)
    return routing


def routing_of(logits_TE: Array, top_k: int) -> Routing:
    """Allocates the results of `route`."""
    tokens, experts = logits_TE.shape
    return Routing(
        topk_idx=empty(logits_TE, (tokens, top_k), "int32"),
        topk_weights=empty(logits_TE, (tokens, top_k), _score_dtype(logits_TE)),
        tokens_per_expert=empty(logits_TE, (experts,), "int32"),
    )


def route_gradient(
    options: RouteOptions, grad_topk_weights: Array, logits: Array, topk_idx: Array
) -> Array:
    """Returns the gradient to the logits; `route_backward` documents the arguments."""
    logits_TE = plain("logits", logits, 2)
    grad_TK = plain("grad_topk_weights", grad_topk_weights, 2)
    same_kind("logits", logits, topk_idx=topk_idx, grad_topk_weights=grad_topk_weights)
    grad_logits_TE = empty(logits_TE, logits_TE.shape)
    chosen_TK = plain("topk_idx", topk_idx, 2)
    engine.route_backward(
        context_of(logits_TE), options, logits_TE, chosen_TK, grad_TK, grad_logits_TE
    )
    return grad_logits_TE


def router_z_loss(logits: Array) -> Array:
    """Returns the router z-loss: the mean over tokens of logsumexp(logits)², a scalar.

    Args:
        logits: [T, E] float32, float64, bfloat16 or float16.

    Returns:
        A scalar of float32 (float64 for float64 logits); 0 when T is 0.
    """
    if is_torch(logits):
        return torch_op("router_z_loss")(logits)
    return router_z_loss_forward(logits)


def router_z_loss_forward(logits: Array) -> Array:
    """Computes the z-loss outside autograd."""
    logits_TE = plain("logits", logits, 2)
    loss = empty(logits_TE, (1,), _score_dtype(logits_TE))
    engine.router_z_loss(context_of(logits_TE), logits_TE, loss)
    return loss.reshape(())


def router_z_loss_backward(grad_loss: Array, logits: Array) -> Array:
    """Returns the gradient of `router_z_loss` to the logits, [T, E] in their dtype.

    Args:
        grad_loss: A scalar in the dtype of the loss.
        logits: [T, E], as given to `router_z_loss`.
    """
    logits_TE = plain("logits", logits, 2)
    same_kind("logits", logits, grad_loss=grad_loss)
    grad_logits_TE = empty(logits_TE, logits_TE.shape)
    grad = plain("grad_loss", grad_loss, 0).reshape(1)
    engine.router_z_loss_backward(context_of(logits_TE), logits_TE, grad, grad_logits_TE)
    return grad_logits_TE


def jitter(x: Array, epsilon: float, seed: int) -> Array:
    """Multiplies each element by noise drawn uniformly from [1 - epsilon, 1 + epsilon].

    Args:
        x: [T, H] float32, float64 or bfloat16.
        epsilon: In [0, 1).
        seed: From 0 to 2⁶⁴ - 1. The noise depends only on the seed and an element's position.

    Returns:
        [T, H] in the dtype of x.
    """
    if is_torch(x):
        return torch_op("jitter")(x, epsilon, seed)
    return jitter_forward(x, epsilon, seed)


def jitter_forward(x: Array, epsilon: float, seed: int) -> Array:
    """Applies the jitter outside autograd."""
    x_TH = plain("x", x, 2)
    y_TH = empty(x_TH, x_TH.shape)
    bits = integer("seed", seed, 0, _UINT64_MAX)
    engine.jitter(context_of(x_TH), x_TH, real("epsilon", epsilon), bits, y_TH)
    return y_TH


def jitter_backward(grad_y: Array, epsilon: float, seed: int) -> Array:
    """Returns the gradient of `jitter` to x: the same noise on `grad_y`, [T, H]."""
    return jitter_forward(grad_y, epsilon, seed)


def _score_dtype(logits: Array) -> str:
    return "float64" if dtype_name(logits) == "float64" else "float32"
