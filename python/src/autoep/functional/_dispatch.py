"""Dispatch and combine alone, for experts that the engine does not compute.

Shapes: R rows of this rank's experts, in expert order: by expert, then rank, token and k.
"""

from __future__ import annotations

from typing import NamedTuple

from autoep.core.arrays import (
    Array,
    check_array,
    dense,
    dtype_name,
    empty,
    is_torch,
    on_gpu,
    plain,
    same_kind,
    workspace,
)
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import experts_options
from autoep.distributed.communicator import Communicator
from autoep.errors import InvalidArgumentError
from autoep.functional._layer_handles import Layer, PlanSize
from autoep.functional._plan import Plan, check_plan, check_rows, check_tokens, make_plan
from autoep.functional._torch_op import torch_op


class Dispatched(NamedTuple):
    """The rows of this rank's experts.

    Attributes:
        rows: [R, H], in expert order. On a single rank with a GPU, where the host does not wait
            for R, [T*K, H] with zeros behind the rows.
        rows_per_expert: [e] int32.
        plan: The plan to pass to `combine`.
    """

    rows: Array
    rows_per_expert: Array
    plan: Plan


def dispatch(
    x: Array,
    topk_idx: Array | None,
    *,
    num_experts: int | None = None,
    comm: Communicator | None = None,
    topk_weights: Array | None = None,
    plan: Plan | None = None,
) -> Dispatched:
    """Sends each token to the ranks of its experts, once per slot; collective.

    Args:
        x: [T, H] float32, float64 or bfloat16 (on a GPU float32, bfloat16 or float16); the rows
            are differentiable with respect to it.
        topk_idx: [T, K] int32 or int64, each in [0, num_experts), or -1 for no expert; not read
            with `plan`.
        num_experts: E, over all ranks; may be None with `plan`.
        comm: The ranks; None for this rank alone.
        topk_weights: [T, K], factors of the rows, differentiable; None to leave the rows unscaled.
            They require a gradient on every rank or on none.
        plan: An existing plan to follow; None to make one.
    """
    check_array("x", x, 2)
    if topk_weights is not None:
        check_array("topk_weights", topk_weights, 2)
    same_kind("x", x, topk_idx=None if plan else topk_idx, topk_weights=topk_weights)
    if plan is None:
        if num_experts is None:
            raise InvalidArgumentError("num_experts: expected the number of experts, got None")
        check_array("topk_idx", topk_idx, 2)
        # Dispatch does not compute on the rows: any size and activation would do.
        options = experts_options(
            num_experts, topk_idx.shape[1], x.shape[1], 1, dtype_name(x), gate="none"
        )
        plan = make_plan(topk_idx, options, comm)
    else:
        check_plan(plan, num_experts, comm)
        check_tokens("x", x, plan)
    if is_torch(x):
        rows = torch_op("dispatch")(plan, x, topk_weights)
    else:
        rows = dispatch_forward(plan.layer, x, topk_weights, plan.memory, plan.size, plan.rows)
    return Dispatched(rows, plan.rows_per_expert, plan)


def combine(rows: Array, plan: Plan, topk_weights: Array | None = None) -> Array:
    """Sends the experts' results back to their tokens and sums them; collective.

    y[t] is the sum over k, in k order and in float32 (float64 for float64), of topk_weights[t, k]
    times the row of slot (t, k); with `dispatch` "tokens" of the communicator the sum over the
    ranks of each rank's sum.

    Args:
        rows: [R, H] of the shape that `dispatch` returned, differentiable.
        plan: From `dispatch`.
        topk_weights: [T, K] float32, float64 or bfloat16 (on a GPU float32, bfloat16 or float16),
            differentiable; None for ones.

    Returns:
        y, [T, H] in the dtype of rows.
    """
    check_array("rows", rows, 2)
    if topk_weights is not None:
        check_array("topk_weights", topk_weights, 2)
    same_kind("rows", rows, topk_weights=topk_weights)
    check_plan(plan, None, None)
    check_rows("rows", rows, plan)
    if is_torch(rows):
        return torch_op("combine")(plan, rows, topk_weights)
    return combine_forward(plan.layer, rows, topk_weights, plan.memory, plan.size, plan.num_tokens)


def dispatch_backward(
    grad_rows: Array, plan: Plan, x: Array | None = None, topk_weights: Array | None = None
) -> tuple[Array, Array | None]:
    """Returns the gradients of `dispatch` to x [T, H] and topk_weights [T, K]; collective.

    Args:
        grad_rows: [R, H].
        plan: From `dispatch`.
        x: [T, H], as given to `dispatch`; may be None where topk_weights is.
        topk_weights: [T, K], as given to `dispatch`.
    """
    grad_RH = plain("grad_rows", grad_rows, 2)
    same_kind("grad_rows", grad_RH, x=x, topk_weights=topk_weights)
    check_plan(plan, None, None)
    check_rows("grad_rows", grad_RH, plan)
    if topk_weights is not None:
        check_tokens("x", x, plan)
    layer, tokens = plan.layer, plan.num_tokens
    grad_x = combine_forward(layer, grad_RH, topk_weights, plan.memory, plan.size, tokens)
    if topk_weights is None:
        return grad_x, None
    # The gradient of a slot's weight is <x, grad_row>; for combine it is <grad_y, row>.
    _, grad_weights = combine_gradients(layer, x, grad_RH, topk_weights, plan.memory, plan.size)
    return grad_x, grad_weights


def combine_backward(
    grad_y: Array, rows: Array | None, plan: Plan, topk_weights: Array | None = None
) -> tuple[Array, Array | None]:
    """Returns the gradients of `combine` to rows [R, H] and topk_weights [T, K]; collective.

    Args:
        grad_y: [T, H].
        rows: [R, H], as given to `combine`; may be None where topk_weights is.
        plan: As given to `combine`.
        topk_weights: [T, K], as given to `combine`.
    """
    grad_TH = plain("grad_y", grad_y, 2)
    same_kind("grad_y", grad_TH, rows=rows, topk_weights=topk_weights)
    check_plan(plan, None, None)
    check_tokens("grad_y", grad_TH, plan)
    if topk_weights is not None:
        check_rows("rows", rows, plan)
    if topk_weights is None:
        grad_rows = dispatch_forward(plan.layer, grad_TH, None, plan.memory, plan.size, plan.rows)
        return grad_rows, None
    return combine_gradients(plan.layer, grad_TH, rows, topk_weights, plan.memory, plan.size)


def dispatch_forward(
    layer: Layer, x: Array, topk_weights: Array | None, plan: Array, size: PlanSize, rows: int
) -> Array:
    """Returns the rows [R, H] of x [T, H], outside autograd; collective."""
    x_TH = dense(x)
    tokens = x_TH.shape[0]
    rows_CH = _empty_rows(x_TH, size.capacity)
    engine.dispatch(
        context_of(x_TH),
        layer.handle,
        plan,
        *size,
        x_TH,
        dense(topk_weights),
        rows_CH,
        workspace(x_TH, layer.workspace(x_TH, tokens, size).dispatch),
    )
    return _first(rows_CH, rows)


def combine_forward(
    layer: Layer,
    rows: Array,
    topk_weights: Array | None,
    plan: Array,
    size: PlanSize,
    tokens: int,
) -> Array:
    """Returns the tokens [T, H] of rows [R, H], outside autograd; collective."""
    rows_CH = _with_room(rows, size)
    y_TH = empty(rows_CH, (tokens, rows_CH.shape[1]))
    engine.combine(
        context_of(rows_CH),
        layer.handle,
        plan,
        *size,
        rows_CH,
        dense(topk_weights),
        y_TH,
        workspace(rows_CH, layer.workspace(rows_CH, tokens, size).dispatch),
    )
    return y_TH


def combine_gradients(
    layer: Layer, grad_y: Array, rows: Array, topk_weights: Array, plan: Array, size: PlanSize
) -> tuple[Array, Array]:
    """Returns the gradients of `combine_forward` to rows and to topk_weights; collective."""
    grad_TH, weights_TK = dense(grad_y), dense(topk_weights)
    tokens = grad_TH.shape[0]
    rows_CH = _with_room(rows, size)
    grad_rows_CH = _empty_rows(grad_TH, size.capacity)
    grad_weights_TK = empty(weights_TK, weights_TK.shape)
    engine.combine_backward(
        context_of(grad_TH),
        layer.handle,
        plan,
        *size,
        grad_TH,
        rows_CH,
        weights_TK,
        grad_rows_CH,
        grad_weights_TK,
        workspace(grad_TH, layer.workspace(grad_TH, tokens, size).dispatch),
    )
    return _first(grad_rows_CH, rows.shape[0]), grad_weights_TK


def _empty_rows(like: Array, capacity: int) -> Array:
    """Allocates rows; zeroed on a GPU, where the host does not know which row is the last."""
    rows_CH = empty(like, (capacity, like.shape[1]))
    if on_gpu(like):
        rows_CH.zero_()
    return rows_CH


def _first(rows_CH: Array, count: int) -> Array:
    """Returns the first rows, as no view: a Function's view cannot be modified in place."""
    if is_torch(rows_CH):
        return rows_CH.resize_(count, rows_CH.shape[1])
    return rows_CH[:count]


def _with_room(rows: Array, size: PlanSize) -> Array:
    """Returns the rows with memory behind them for slots without an expert."""
    rows_RH = dense(rows)
    count = rows_RH.shape[0]
    if count >= size.capacity:
        return rows_RH
    rows_CH = empty(rows_RH, (size.capacity, rows_RH.shape[1]))
    rows_CH[:count] = rows_RH
    return rows_CH
