"""A layer's operations for autograd: experts, router and experts, dispatch and combine.

Under torch.compile they are operators (`_torch_operators`), and no layer exists while tracing.
On a GPU they only enqueue work on the current stream: nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import FunctionCtx

from autoep.core.arrays import dense, empty
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import ExpertsOptions, ExpertsWeights, RouteOptions, integer
from autoep.distributed.communicator import Communicator
from autoep.errors import InvalidArgumentError
from autoep.functional._dispatch import combine_forward, combine_gradients, dispatch_forward
from autoep.functional._experts import ExpertsGradients, Forward, GradBuffers, backward, forward
from autoep.functional._first_order import first_order_only
from autoep.functional._layer_handles import Layer, Planned, PlanSize, layer_of
from autoep.functional._plan import Plan, make_plan
from autoep.functional._routing import routing_of
from autoep.functional._saved import is_kept_as_it_is, take_saved
from autoep.functional._torch_operators import VERSION
from autoep.functional._torch_route import run_route, run_route_backward

Tensor = torch.Tensor
_OPS = torch.ops.autoep


class Call(NamedTuple):
    """One call of a layer, except its tensors.

    Attributes:
        layer: The engine's layer; None if the call is traced.
        options: What the layer computes.
        comm: The number of its communicator, 0 for a single rank.
        size: The size of an existing plan.
        rows: R of an existing plan.
    """

    layer: Layer | None
    options: ExpertsOptions
    comm: int
    size: PlanSize | None = None
    rows: int = 0

    @property
    def traced(self) -> tuple[Any, ...]:
        """The last arguments of an operator."""
        return (*self.options, self.comm, VERSION)


def autocast(x: Tensor, weights: ExpertsWeights) -> tuple[Tensor, ExpertsWeights]:
    """Casts what `torch.nn.functional.linear` would cast; the copies live until the backward."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weights
    dtype = torch.get_autocast_dtype(x.device.type)
    return _cast(x, dtype), ExpertsWeights(*(_cast(weight, dtype) for weight in weights))


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Casts an argument as autocast does; float64 stays."""
    castable = tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if castable else tensor


def plan(topk_idx: Tensor, options: ExpertsOptions, comm: Communicator | None) -> Planned:
    """Makes a plan under torch.compile; its sizes are read from a tensor in host memory."""
    *tensors, counts = _OPS.plan(
        topk_idx, *Call(None, options, 0 if comm is None else comm.key).traced
    )
    rows, *size = (counts[index].item() for index in range(4))
    for count in (rows, *size):
        torch._check(count >= 0)
    return Planned(*tensors, rows, PlanSize(*size))


def _call(x: Tensor, options: ExpertsOptions, comm: Communicator | None) -> Call:
    layer = None if torch.compiler.is_compiling() else layer_of(x, options, comm)
    return Call(layer, options, 0 if comm is None else comm.key)


def _call_of(plan: Plan, x: Tensor) -> Call:
    call = _call(x, plan.options, plan.comm)._replace(size=plan.size, rows=plan.rows)
    return call if call.layer is None else call._replace(layer=plan.layer)


def experts(
    options: ExpertsOptions,
    comm: Communicator | None,
    plan: Plan | None,
    buffers: GradBuffers | None,
    x: Tensor,
    topk_idx: Tensor | None,
    topk_weights: Tensor,
    weights: ExpertsWeights,
) -> Tensor:
    """Computes `functional.experts`; collective."""
    if buffers is not None:
        _check_buffers(weights, buffers)
    call = _call(x, options, comm)
    if plan is None and call.layer is None and comm is not None and comm.size > 1:
        plan = make_plan(topk_idx, options, comm)
    plan_bytes = None
    if plan is not None:
        plan_bytes, topk_idx = plan.memory, None
        call = _call_of(plan, x)
    tensors = (x, topk_idx, topk_weights, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return Experts.apply(call, buffers, plan_bytes, *tensors)
    return _run_forward(call, plan_bytes, *tensors)[0]


def _run_forward(
    call: Call,
    plan: Tensor | None,
    x: Tensor,
    topk_idx: Tensor | None,
    topk_weights: Tensor,
    *weights: Tensor | None,
) -> Forward:
    if call.layer is not None:
        own = ExpertsWeights(*weights)
        return forward(call.layer, x, topk_idx, topk_weights, own, plan, call.size)
    size = call.size or PlanSize()
    y, saved, made = _OPS.experts(x, topk_idx, topk_weights, *weights, plan, *size, *call.traced)
    if plan is not None:
        return Forward(y, saved, plan, size)
    return Forward(y, saved, made, PlanSize(x.shape[0] * call.options.top_k))


class Experts(torch.autograd.Function):
    """Keeps the bytes that the engine saved. Over several ranks the backward is collective."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        call: Call,
        buffers: GradBuffers | None,
        plan: Tensor | None,
        x: Tensor,
        topk_idx: Tensor | None,
        topk_weights: Tensor,
        *weights: Tensor | None,
    ) -> Tensor:
        """[T, H] to [T, H]."""
        y, saved, followed, size = _run_forward(call, plan, x, topk_idx, topk_weights, *weights)
        reads_x = call.layer is None or call.layer.backward_reads_x
        ctx.save_for_backward(x if reads_x else None, topk_weights, *weights, followed, saved)
        # Kept out of save_for_backward: another backward may modify these buffers in between.
        ctx.buffers = buffers
        ctx.call = call._replace(size=size)
        ctx.is_saved_ours = is_kept_as_it_is()
        return y

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[T, H] to the gradients of the tensors, in their order."""
        wants_x, _, *wanted = ctx.needs_input_grad[3:]
        found = _gradients(ctx, grad_y, *ctx.saved_tensors, wanted=(wants_x, *wanted))
        return None, None, None, found[0], None, *found[1:]


def _gradients(
    ctx: FunctionCtx,
    grad_y: Tensor,
    x: Tensor | None,
    topk_weights: Tensor,
    *others: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Returns the wanted gradients of x, topk_weights and the weights.

    Gradients of the weights are added to the buffers, if there are any.

    Args:
        ctx: Has `call`, `buffers` and `is_saved_ours`.
        grad_y: [T, H].
        x: [T, H] or None.
        topk_weights: [T, K].
        *others: The weights, the plan and what the forward saved.
        wanted: Whether each gradient is wanted: x, topk_weights and each of the weights.
    """
    *weights, plan, saved = others
    call: Call = ctx.call
    accumulate = ctx.buffers is not None
    # With a communicator both are always computed: all ranks must send them.
    wants_x, wants_topk_weights, *wanted_weights = wanted
    found = [
        _empty_like(grad_y) if wants_x or call.comm else None,
        _empty_like(topk_weights) if wants_topk_weights or call.comm else None,
    ]
    places = [
        place if is_wanted else None
        for place, is_wanted in zip(ctx.buffers or weights, wanted_weights, strict=True)
    ]
    if not accumulate:
        places = [None if place is None else _empty_like(place) for place in places]
    if call.layer is None:
        _OPS.experts_backward(
            *(grad_y, x, topk_weights, *weights, plan, *call.size, saved, *found, *places),
            accumulate,
            *call.traced,
        )
    else:
        backward(
            call.layer,
            grad_y,
            x,
            topk_weights,
            ExpertsWeights(*weights),
            plan,
            call.size,
            saved,
            ExpertsGradients(*found, *places),
            overwrite_saved=take_saved(ctx, saved),
            accumulate=accumulate,
        )
    return [*found, *([None] * len(places) if accumulate else places)]


def _empty_like(tensor: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return tensor.new_empty(tensor.shape)
    return empty(tensor, tensor.shape)


def _check_buffers(weights: ExpertsWeights, buffers: GradBuffers) -> None:
    for name, weight, buffer in zip(weights._fields, weights, buffers, strict=True):
        if weight is None or not weight.requires_grad:
            continue
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        fits = (
            isinstance(buffer, torch.Tensor)
            and buffer.dtype == dtype
            and buffer.shape == weight.shape
            and buffer.device == weight.device
            and buffer.is_contiguous()
        )
        if not fits:
            raise InvalidArgumentError(
                f"grad_buffers.{name}: expected a dense tensor of {dtype} and shape"
                f" {list(weight.shape)} on {weight.device}, because {name} requires a gradient; got"
                f" {_described(buffer)}"
            )


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {list(value.shape)} on {value.device}"


class Computed(NamedTuple):
    """The results of the forward of a router and its experts."""

    y: Tensor  # [T, H]
    logits: Tensor  # [T, E]
    topk_idx: Tensor  # [T, K]
    topk_weights: Tensor  # [T, K]
    tokens_per_expert: Tensor  # [E]
    saved: Tensor
    plan: Tensor


def moe(
    route_as: RouteOptions,
    compute_as: ExpertsOptions,
    x: Tensor,
    router: Tensor,
    selection_bias: Tensor | None,
    weights: ExpertsWeights,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes y, logits, topk_idx and tokens_per_expert, as `functional.moe` documents."""
    call = _call(x, compute_as, None)
    tensors = (x, router, selection_bias, *weights)
    # Launched before autograd's bookkeeping, so that the device starts sooner.
    computed = None if call.layer is None else _compute(route_as, call, *tensors)
    return MoE.apply(route_as, call, computed, *tensors)


def _compute(
    route_as: RouteOptions,
    call: Call,
    x: Tensor,
    router: Tensor,
    selection_bias: Tensor | None,
    *weights: Tensor | None,
) -> Computed:
    """Runs the forward outside autograd; under torch.compile, as operators."""
    if call.layer is None:
        logits = torch.mm(x, router.t())
        idx, topk_weights, counts = run_route(route_as, logits, selection_bias)
        y, saved, plan, _ = _run_forward(call, None, x, idx, topk_weights, *weights)
        return Computed(y, logits, idx, topk_weights, counts, saved, plan)
    top_k = integer("top_k", route_as.top_k, 1, max(router.shape[0], 1))
    logits = x.new_empty((x.shape[0], router.shape[0]))
    # The experts count their rows in any case.
    idx, topk_weights, counts = routing_of(logits, top_k)
    given = map(dense, (x, router, selection_bias))
    engine.router_forward(context_of(x), route_as, *given, logits, idx, topk_weights, None)
    own = ExpertsWeights(*weights)
    y, saved, plan, _ = forward(call.layer, x, idx, topk_weights, own, tokens_per_expert=counts)
    return Computed(y, logits, idx, topk_weights, counts, saved, plan)


class MoE(torch.autograd.Function):
    """Keeps the state of the router and the experts; the gradient of x is one sum of both."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        route_as: RouteOptions,
        call: Call,
        computed: Computed | None,
        x: Tensor,
        router: Tensor,
        selection_bias: Tensor | None,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[T, H] to y [T, H], logits [T, E], topk_idx [T, K] and tokens_per_expert [E]."""
        if computed is None:
            computed = _compute(route_as, call, x, router, selection_bias, *weights)
        y, logits_TE, idx_TK, weights_TK, counts_E, saved, plan = computed
        ctx.save_for_backward(router, logits_TE, idx_TK, x, weights_TK, *weights, plan, saved)
        ctx.mark_non_differentiable(idx_TK, counts_E)
        ctx.set_materialize_grads(False)
        size = PlanSize(idx_TK.numel())
        ctx.route_as, ctx.call, ctx.buffers = route_as, call._replace(size=size), None
        ctx.is_saved_ours = is_kept_as_it_is()
        return y, logits_TE, idx_TK, counts_E

    @staticmethod
    @first_order_only
    def backward(
        ctx: FunctionCtx, grad_y: Tensor | None, grad_logits_own: Tensor | None, *_: None
    ) -> tuple:
        """[T, H] and [T, E] to the gradients of the tensors, in their order."""
        router, logits_TE, idx_TK, x, *of_experts = ctx.saved_tensors
        wants_x, wants_router, _, *wanted = ctx.needs_input_grad[3:]
        is_routed = wants_x or wants_router
        if grad_y is None:
            grad_y = torch.zeros_like(x)
        grad_x, grad_weights_TK, *grad_weights = _gradients(
            ctx, grad_y, x, *of_experts, wanted=(wants_x, is_routed, *wanted)
        )
        grad_router = None
        if is_routed:
            grad_logits = run_route_backward(ctx.route_as, grad_weights_TK, logits_TE, idx_TK)
            if grad_logits_own is not None:
                grad_logits = grad_logits + grad_logits_own
            if wants_x:
                grad_x.addmm_(grad_logits, router)
            if wants_router:
                grad_router = torch.mm(grad_logits.t(), x)
        return None, None, None, grad_x, grad_router, None, *grad_weights


def dispatch(plan: Plan, x: Tensor, topk_weights: Tensor | None) -> Tensor:
    """Computes the rows of `functional.dispatch`; collective."""
    call = _call_of(plan, x)
    return Dispatch.apply(call, x, topk_weights, plan.memory)


def combine(plan: Plan, rows: Tensor, topk_weights: Tensor | None) -> Tensor:
    """Computes `functional.combine`; collective."""
    call = _call_of(plan, rows)
    return Combine.apply(call, rows, topk_weights, plan.memory, plan.num_tokens)


def _rows(call: Call, *given: Any) -> Tensor:
    """Returns the rows for x, topk_weights and a plan."""
    if call.layer is None:
        return _OPS.dispatch(*given, *call.size, call.rows, *call.traced)
    return dispatch_forward(call.layer, *given, call.size, call.rows)


def _tokens(call: Call, count: int, *given: Any) -> Tensor:
    """Returns T tokens for rows, topk_weights and a plan."""
    if call.layer is None:
        return _OPS.combine(*given, *call.size, count, *call.traced)
    return combine_forward(call.layer, *given, call.size, count)


def _combine_gradients(call: Call, *given: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of combine for grad_y, rows, topk_weights and a plan."""
    if call.layer is None:
        return _OPS.combine_backward(*given, *call.size, *call.traced)
    return combine_gradients(call.layer, *given, call.size)


class Dispatch(torch.autograd.Function):
    """Tokens to the rows of their experts."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, call: Call, x: Tensor, topk_weights: Tensor | None, plan: Tensor
    ) -> Tensor:
        """[T, H] to [R, H]."""
        # x is needed only for the gradient of the weights.
        ctx.save_for_backward(None if topk_weights is None else x, topk_weights, plan)
        ctx.call, ctx.tokens = call, x.shape[0]
        return _rows(call, x, topk_weights, plan)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_rows: Tensor) -> tuple:
        """[R, H] to [T, H] and [T, K]."""
        x, topk_weights, plan = ctx.saved_tensors
        grad_weights = None
        if ctx.needs_input_grad[2]:
            # The gradient of a slot's weight is <x, grad_row>; for combine it is <grad_y, row>.
            _, grad_weights = _combine_gradients(ctx.call, x, grad_rows, topk_weights, plan)
        grad_x = _tokens(ctx.call, ctx.tokens, grad_rows, topk_weights, plan)
        return None, grad_x, grad_weights, None


class Combine(torch.autograd.Function):
    """The rows of experts to their tokens."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        call: Call,
        rows: Tensor,
        topk_weights: Tensor | None,
        plan: Tensor,
        tokens: int,
    ) -> Tensor:
        """[R, H] to [T, H]."""
        # The rows are needed only for the gradient of the weights.
        ctx.save_for_backward(None if topk_weights is None else rows, topk_weights, plan)
        ctx.call = call
        return _tokens(call, tokens, rows, topk_weights, plan)

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[T, H] to [R, H] and [T, K]."""
        rows, topk_weights, plan = ctx.saved_tensors
        if topk_weights is None:
            return None, _rows(ctx.call, grad_y, None, plan), None, None, None
        grads = _combine_gradients(ctx.call, grad_y, rows, topk_weights, plan)
        return None, *grads, None, None
