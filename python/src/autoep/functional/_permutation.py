"""Sorting routed copies by expert, and restoring token order."""

from __future__ import annotations

from typing import NamedTuple

from autoep.core.arrays import Array, empty, is_torch, on_gpu, plain, same_kind
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import integer
from autoep.functional._torch_op import torch_op


class Permuted(NamedTuple):
    """Tokens in expert order.

    Attributes:
        rows: [N, H], the routed copies by expert, then token, then k, followed by zeros for the
            slots without an expert.
        row_of_slot: [T, K] int32, the row of each copy; -1 for a slot without an expert.
        tokens_per_expert: [E] int32.
    """

    rows: Array
    row_of_slot: Array
    tokens_per_expert: Array


def sort_by_expert(topk_idx: Array, num_experts: int) -> tuple[Array, Array]:
    """Sorts the routed copies by expert, stably: by expert, then token, then k.

    Args:
        topk_idx: [T, K] int32 or int64, each in [0, num_experts), or -1 for no expert.
        num_experts: E.

    Returns:
        row_of_slot [T, K] int32, the row of each copy, and tokens_per_expert [E] int32.
    """
    idx_TK = plain("topk_idx", topk_idx, 2)
    row_of_slot_TK = empty(idx_TK, idx_TK.shape, "int32")
    experts = integer("num_experts", num_experts, 1)
    tokens_per_expert_E = empty(idx_TK, (experts,), "int32")
    engine.sort_by_expert(context_of(idx_TK), idx_TK, experts, row_of_slot_TK, tokens_per_expert_E)
    return row_of_slot_TK, tokens_per_expert_E


def permute(x: Array, topk_idx: Array, num_experts: int) -> Permuted:
    """Copies each token K times, in expert order.

    Args:
        x: [T, H] float32, float64 or bfloat16; the rows are differentiable with respect to it.
        topk_idx: [T, K] int32 or int64, each in [0, num_experts), or -1 for no expert.
        num_experts: E.

    Returns:
        The rows, and the row of each copy.
    """
    same_kind("x", x, topk_idx=topk_idx)
    row_of_slot, tokens_per_expert = sort_by_expert(topk_idx, num_experts)
    if is_torch(x):
        rows = torch_op("permute")(x, row_of_slot)
    else:
        rows = permute_forward(x, row_of_slot)
    return Permuted(rows, row_of_slot, tokens_per_expert)


def permute_forward(x: Array, row_of_slot: Array) -> Array:
    """Returns the rows [N, H] of x [T, H], outside autograd."""
    x_TH = plain("x", x, 2)
    slots_TK = plain("row_of_slot", row_of_slot, 2)
    rows_NH = _empty_rows(x_TH, slots_TK)
    engine.permute(context_of(x_TH), x_TH, slots_TK, rows_NH)
    return rows_NH


def permute_backward(grad_rows: Array, row_of_slot: Array) -> Array:
    """Returns the gradient of `permute` to x, [T, H]: each token's K rows, summed in k order.

    Args:
        grad_rows: [N, H].
        row_of_slot: [T, K], from `permute`.
    """
    grad_NH = plain("grad_rows", grad_rows, 2)
    slots_TK = plain("row_of_slot", row_of_slot, 2)
    same_kind("grad_rows", grad_rows, row_of_slot=row_of_slot)
    grad_x_TH = empty(grad_NH, (slots_TK.shape[0], grad_NH.shape[1]))
    engine.permute_backward(context_of(grad_NH), grad_NH, slots_TK, grad_x_TH)
    return grad_x_TH


def unpermute(rows: Array, row_of_slot: Array, topk_weights: Array | None = None) -> Array:
    """Sums each token's K rows, weighted, in k order and in float32 (float64 for float64).

    Args:
        rows: [N, H] float32, float64 or bfloat16, in expert order; differentiable.
        row_of_slot: [T, K] int32, from `permute`.
        topk_weights: [T, K] float32, float64 or bfloat16, differentiable; None for ones.

    Returns:
        [T, H] in the dtype of rows.
    """
    if is_torch(rows):
        return torch_op("unpermute")(rows, row_of_slot, topk_weights)
    return unpermute_forward(rows, row_of_slot, topk_weights)


def unpermute_forward(rows: Array, row_of_slot: Array, topk_weights: Array | None) -> Array:
    """Returns the tokens [T, H] of rows [N, H], outside autograd."""
    rows_NH = plain("rows", rows, 2)
    slots_TK = plain("row_of_slot", row_of_slot, 2)
    weights_TK = None if topk_weights is None else plain("topk_weights", topk_weights, 2)
    same_kind("rows", rows, row_of_slot=row_of_slot, topk_weights=topk_weights)
    y_TH = empty(rows_NH, (slots_TK.shape[0], rows_NH.shape[1]))
    engine.unpermute(context_of(rows_NH), rows_NH, slots_TK, weights_TK, y_TH)
    return y_TH


def unpermute_backward(
    grad_y: Array, rows: Array | None, row_of_slot: Array, topk_weights: Array | None = None
) -> tuple[Array, Array | None]:
    """Returns the gradients of `unpermute`.

    Args:
        grad_y: [T, H].
        rows: [N, H], as given to `unpermute`; may be None where topk_weights is.
        row_of_slot: [T, K], as given to `unpermute`.
        topk_weights: [T, K] or None, as given to `unpermute`.

    Returns:
        The gradients to rows, [N, H], and to topk_weights, [T, K] (None without weights).
    """
    grad_TH = plain("grad_y", grad_y, 2)
    slots_TK = plain("row_of_slot", row_of_slot, 2)
    rows_NH = None if rows is None else plain("rows", rows, 2)
    weights_TK = None if topk_weights is None else plain("topk_weights", topk_weights, 2)
    same_kind("grad_y", grad_y, rows=rows, row_of_slot=row_of_slot, topk_weights=topk_weights)
    grad_rows_NH = _empty_rows(grad_TH, slots_TK)
    grad_weights_TK = None if weights_TK is None else empty(weights_TK, weights_TK.shape)
    engine.unpermute_backward(
        context_of(grad_TH), grad_TH, rows_NH, slots_TK, weights_TK, grad_rows_NH, grad_weights_TK
    )
    return grad_rows_NH, grad_weights_TK


def _empty_rows(tokens: Array, slots_TK: Array) -> Array:
    """Allocates one row per slot, zeroed if a slot may have no row: the engine skips these."""
    rows_NH = empty(tokens, (slots_TK.shape[0] * slots_TK.shape[1], tokens.shape[1]))
    if on_gpu(tokens) or (slots_TK < 0).any():
        rows_NH[...] = 0
    return rows_NH
