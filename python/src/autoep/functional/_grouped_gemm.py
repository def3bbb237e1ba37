"""Products of grouped rows with one weight per group."""

from __future__ import annotations

from typing import Literal

from autoep.core.arrays import Array, array_of, empty, is_numpy, is_torch, plain, same_kind
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import LAYOUTS, counts, enum_value
from autoep.functional._torch_op import torch_op

_Layout = Literal["out_in", "in_out"]
_TRANSPOSED = {"out_in": "in_out", "in_out": "out_in"}


def grouped_gemm(
    rows: Array, weights: Array, rows_per_group: Array, *, layout: _Layout = "out_in"
) -> Array:
    """Multiplies each row by the weight of its group; groups follow each other in `rows`.

    Accumulates in float32 (float64 for float64); the result of a row does not depend on its
    position.

    Args:
        rows: [R, in] float32, float64 or bfloat16; differentiable.
        weights: [E, out, in], or [E, in, out] for the layout "in_out"; differentiable.
        rows_per_group: [E] int32 or int64 tensor, or a sequence of integers, whose sum is R.
        layout: "out_in": y = x Wᵀ, as most HuggingFace families store weights. "in_out": y = x W.

    Returns:
        [R, out] in the dtype of rows.
    """
    if is_torch(rows):
        return torch_op("grouped_gemm")(rows, weights, _groups(rows_per_group, rows), layout)
    return grouped_gemm_forward(rows, weights, rows_per_group, layout)


def grouped_gemm_forward(
    rows: Array, weights: Array, rows_per_group: Array, layout: _Layout
) -> Array:
    """Computes the product outside autograd."""
    number = enum_value("layout", layout, LAYOUTS)
    rows_RI = plain("rows", rows, 2)
    weights_EOI = plain("weights", weights, 3)
    same_kind("rows", rows, weights=weights)
    columns = weights_EOI.shape[1 if layout == "out_in" else 2]
    out_RO = empty(rows_RI, (rows_RI.shape[0], columns))
    groups_E = _groups(rows_per_group, rows_RI)
    engine.grouped_gemm(context_of(rows_RI), rows_RI, weights_EOI, number, groups_E, out_RO)
    return out_RO


def grouped_gemm_backward(
    grad_out: Array,
    rows: Array,
    weights: Array,
    rows_per_group: Array,
    *,
    layout: _Layout = "out_in",
) -> tuple[Array, Array]:
    """Returns the gradients of `grouped_gemm` to rows, [R, in], and to weights, of their shape.

    Args:
        grad_out: [R, out].
        rows: [R, in], as given to `grouped_gemm`, like all arguments below.
        weights: [E, out, in] or [E, in, out].
        rows_per_group: [E].
        layout: "out_in" or "in_out".
    """
    enum_value("layout", layout, LAYOUTS)
    return (
        rows_gradient(grad_out, weights, rows_per_group, layout),
        weight_gradient(grad_out, rows, weights, rows_per_group, layout),
    )


def rows_gradient(grad_out: Array, weights: Array, rows_per_group: Array, layout: _Layout) -> Array:
    """Returns the gradient of the rows: the product with the transposed weights."""
    return grouped_gemm_forward(grad_out, weights, rows_per_group, _TRANSPOSED[layout])


def weight_gradient(
    grad_out: Array, rows: Array, weights: Array, rows_per_group: Array, layout: _Layout
) -> Array:
    """Returns the gradient of the weights: zeros for a group without rows."""
    grad_RO = plain("grad_out", grad_out, 2)
    rows_RI = plain("rows", rows, 2)
    same_kind("grad_out", grad_out, rows=rows, weights=weights)
    grad_weights = empty(grad_RO, plain("weights", weights, 3).shape)
    engine.grouped_gemm_weight_grad(
        context_of(grad_RO),
        grad_RO,
        rows_RI,
        LAYOUTS[layout],
        _groups(rows_per_group, rows_RI),
        grad_weights,
    )
    return grad_weights


def _groups(rows_per_group: Array, like: Array) -> Array:
    """Returns the counts as an array of the library of `like`."""
    if is_torch(rows_per_group) or is_numpy(rows_per_group):
        same_kind("rows", like, rows_per_group=rows_per_group)
        return plain("rows_per_group", rows_per_group, 1)
    values = counts("rows_per_group", rows_per_group)
    return array_of(values, like)
