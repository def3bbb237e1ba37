"""The experts of a layer, on any rank: dispatch, compute, combine.

Shapes, beside those of the package: E experts of all ranks, e of this rank, R rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from autoep.core.arrays import (
    Array,
    check_array,
    dense,
    dtype_name,
    empty,
    is_torch,
    memory,
    plain,
    same_kind,
    workspace,
)
from autoep.core.contexts import context_of
from autoep.core.native import engine
from autoep.core.options import Computing, ExpertsOptions, ExpertsWeights, experts_options
from autoep.distributed.communicator import Communicator, handle_of
from autoep.errors import InvalidArgumentError
from autoep.functional._layer_handles import Layer, PlanSize, layer_of
from autoep.functional._plan import Plan, check_plan
from autoep.functional._torch_op import torch_op

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ExpertsSaved(NamedTuple):
    """The state that `experts_backward` needs from a forward.

    Attributes:
        plan: The plan that the forward followed.
        saved: The bytes that the engine saved.
        x: [T, H]; None if the backward does not read it.
        topk_weights: [T, K].
        weights: The weights of this rank's experts.
    """

    plan: Plan
    saved: Array
    x: Array | None
    topk_weights: Array
    weights: ExpertsWeights


class ExpertsGradients(NamedTuple):
    """The gradients of `experts`, each of the shape of its tensor.

    Gradients that were not wanted, and those of absent biases, are None.
    """

    x: Array | None
    topk_weights: Array | None
    gate_up: Array | None
    gate_up_bias: Array | None
    down: Array | None
    down_bias: Array | None


# Buffers to which a backward adds the gradients of the weights: float32 (float64 for float64),
# dense, of the weights' shapes. None for an absent weight, or one that requires no gradient.
GradBuffers = ExpertsWeights

# The gradients that a caller may omit.
OPTIONAL_GRADIENTS = ExpertsGradients._fields[1:]


def experts(
    x: Array,
    topk_idx: Array | None,
    topk_weights: Array,
    gate_up: Array,
    down: Array,
    *,
    gate_up_bias: Array | None = None,
    down_bias: Array | None = None,
    num_experts: int | None = None,
    comm: Communicator | None = None,
    plan: Plan | None = None,
    grad_buffers: GradBuffers | None = None,
    **computing: Unpack[Computing],
) -> Array:
    """Sends each token to its experts and returns the weighted sum of their results; collective.

    y[t] is the sum over k, in k order, of topk_weights[t, k] times expert topk_idx[t, k] of x[t];
    with `comm.dispatch` "tokens" the sum over the ranks of each rank's sum.
    A slot whose topk_idx is -1 has no expert: it adds nothing, its weight is not read, and the
    gradient of its weight is 0. With `comm.dispatch` "slots" the result and the gradient to x have
    the same bits for every number of ranks.

    Every rank makes the call and its backward, also a rank without tokens or experts: it passes
    tensors of zero rows. The backward is a separate collective.

    On a GPU the call only enqueues work; an index outside [-1, E) adds nothing, and a later call
    raises for it. Under autocast, x, the weights and y have autocast's dtype, as with
    `torch.nn.functional.linear`; topk_weights keep theirs.

    Args:
        x: [T, H] float32, float64 or bfloat16 (on a GPU float32, bfloat16 or float16);
            differentiable, like all arguments below except topk_idx.
        topk_idx: [T, K] int32 or int64, each in [0, num_experts) or -1; not read with `plan`,
            which contains it.
        topk_weights: [T, K] float32, float64 or bfloat16 (on a GPU float32, bfloat16 or float16).
        gate_up: [e, G, H], or [e, H, G] for the layout "in_out": this rank's experts.
        down: [e, H, F], or [e, F, H].
        gate_up_bias: [e, G] or None.
        down_bias: [e, H] or None.
        num_experts: E, over all ranks; may be None on a single rank.
        comm: The ranks; None for this rank alone.
        plan: An existing plan to follow, from `experts_plan`. It fixes the choices, the ranks
            and the options; passing different ones is an error.
        grad_buffers: For torch tensors: buffers to which the backward adds the gradients of the
            weights, whose `grad` stays None. Dense, float32 (float64 for float64), of the weights'
            shapes; None for a weight that requires no gradient.
        **computing: activation, gate, layout, score_apply, swiglu_alpha and swiglu_limit;
            `Computing` documents them.

    Returns:
        y, [T, H] in the dtype of x.
    """
    weights = ExpertsWeights(gate_up, gate_up_bias, down, down_bias)
    check_tensors(x, weights, topk_weights=topk_weights)
    if comm is not None:
        handle_of(comm)
    if is_torch(x):
        x, weights = torch_op("autocast")(x, weights)
    if plan is None:
        check_array("topk_idx", topk_idx, 2)
        same_kind("x", x, topk_idx=topk_idx)
        options = options_of(x, topk_idx.shape[1], weights, num_experts, comm, computing)
    else:
        check_plan(plan, num_experts, comm)
        _check_computing(plan.options, computing)
        options, comm = plan.options, plan.comm
    if is_torch(x):
        return torch_op("experts")(
            options, comm, plan, grad_buffers, x, topk_idx, topk_weights, weights
        )
    if grad_buffers is not None:
        raise InvalidArgumentError("grad_buffers: expected None, because x is not a torch tensor")
    if plan is None:
        return forward(layer_of(x, options, comm), x, topk_idx, topk_weights, weights).y
    given = (plan.memory, plan.size)
    return forward(plan.layer, x, None, topk_weights, weights, *given).y


def check_tensors(x: Array, weights: ExpertsWeights, **others: Array) -> None:
    """Checks the libraries and dimensions of a layer's tensors; `others` are matrices."""
    check_array("x", x, 2)
    for name, tensor in others.items():
        check_array(name, tensor, 2)
    for name, tensor in zip(weights._fields, weights, strict=True):
        if tensor is not None or not name.endswith("_bias"):
            check_array(name, tensor, 2 if name.endswith("_bias") else 3)
    same_kind("x", x, **others, **weights._asdict())
    _check_same_experts(weights)


def _check_same_experts(weights: ExpertsWeights) -> None:
    sizes = {n: w.shape[0] for n, w in weights._asdict().items() if w is not None}
    for name, size in sizes.items():
        if size != sizes["gate_up"]:
            raise InvalidArgumentError(
                f"{name}: expected as many experts as gate_up has, {sizes['gate_up']}"
                f" (gate_up is {list(weights.gate_up.shape)}); got {size}"
                f" ({name} is {list(getattr(weights, name).shape)})"
            )


def options_of(
    x: Array,
    top_k: int,
    weights: ExpertsWeights,
    num_experts: int | None,
    comm: Communicator | None,
    computing: Computing,
) -> ExpertsOptions:
    """Returns the options of one call; of the tensors it reads only shapes and dtype."""
    is_in_out = computing.get("layout") == "in_out"
    if num_experts is None:
        if comm is not None and comm.size > 1:
            raise InvalidArgumentError(
                "num_experts: expected the number of experts over all ranks, got None; only a"
                " single rank may omit it"
            )
        num_experts = weights.gate_up.shape[0]
    return experts_options(
        num_experts,
        top_k,
        x.shape[1],
        weights.down.shape[1 if is_in_out else 2],
        dtype_name(x),
        **computing,
    )


def _check_computing(made: ExpertsOptions, computing: Computing) -> None:
    """Raises unless the options given beside a plan equal those of the plan."""
    if not computing:
        return
    sizes = (made.num_experts, made.top_k, made.hidden_size, made.ffn_size)
    if experts_options(*sizes, "float32", **computing)._replace(dtype=made.dtype) != made:
        raise InvalidArgumentError(
            "options: the plan was made with different options; omit them or pass the same"
        )


class Forward(NamedTuple):
    """The results of a forward: y [T, H], the saved bytes, and the bytes and size of its plan."""

    y: Array
    saved: Array
    plan: Array
    size: PlanSize


def forward(
    layer: Layer,
    x: Array,
    topk_idx: Array | None,
    topk_weights: Array,
    weights: ExpertsWeights,
    plan: Array | None = None,
    size: PlanSize | None = None,
    tokens_per_expert: Array | None = None,
) -> Forward:
    """Computes a layer outside of autograd; collective.

    Args:
        layer: The layer.
        x: [T, H].
        topk_idx: [T, K]; not read with a plan.
        topk_weights: [T, K].
        weights: The weights of this rank's experts.
        plan: The bytes of an existing plan; None to make one.
        size: The size of that plan.
        tokens_per_expert: [E] int32, filled if the forward makes the plan; None to skip it.
    """
    x_TH, idx_TK = dense(x), None
    tokens = x_TH.shape[0]
    if plan is None and layer.counts_rows:
        plan, *_, size = layer.plan(dense(topk_idx))
    elif plan is None:
        idx_TK = dense(topk_idx)
        plan = memory(x_TH, layer.plan_size(tokens))
    given = size or PlanSize()
    size = size or layer.size_of(tokens)
    saved = memory(x_TH, layer.saved_size(size))
    y_TH = empty(x_TH, x_TH.shape)
    engine.layer_forward(
        context_of(x_TH),
        layer.handle,
        tuple(map(dense, weights)),
        x_TH,
        dense(topk_weights),
        idx_TK,
        tokens_per_expert,
        plan,
        *given,
        saved,
        y_TH,
        workspace(x_TH, layer.workspace(x_TH, tokens, given).forward),
    )
    return Forward(y_TH, saved, plan, size)


def backward(
    layer: Layer,
    grad_y: Array,
    x: Array | None,
    topk_weights: Array,
    weights: ExpertsWeights,
    plan: Array,
    size: PlanSize,
    saved: Array,
    gradients: ExpertsGradients,
    *,
    overwrite_saved: bool = False,
    accumulate: bool = False,
) -> None:
    """Fills the gradients of `forward` that are not None; collective.

    Args:
        layer: The layer.
        grad_y: [T, H].
        x: [T, H]; may be None if the layer's backward does not read it.
        topk_weights: [T, K].
        weights: The weights of this rank's experts.
        plan: The bytes of the plan that the forward followed.
        size: The size of that plan.
        saved: The bytes that the forward saved.
        gradients: The tensors to fill; the gradient of x may be None on a single rank only.
        overwrite_saved: Whether `saved` may be used as scratch memory.
        accumulate: Whether to add to the gradients of the weights, which are then float32.
    """
    grad_TH = dense(grad_y)
    tokens = grad_TH.shape[0]
    sizes = layer.workspace(
        grad_TH,
        tokens,
        size,
        overwrite_saved=overwrite_saved,
        lends_gate_up=gradients.gate_up is not None and not accumulate,
        lends_grad_x=gradients.x is not None,
    )
    engine.layer_backward(
        context_of(grad_TH),
        layer.handle,
        tuple(map(dense, weights)),
        grad_TH,
        dense(x),
        dense(topk_weights),
        plan,
        *size,
        saved,
        overwrite_saved,
        *gradients[:2],
        gradients[2:],
        accumulate,
        workspace(grad_TH, sizes.backward),
    )


def experts_forward(
    x: Array,
    topk_weights: Array,
    gate_up: Array,
    down: Array,
    *,
    gate_up_bias: Array | None = None,
    down_bias: Array | None = None,
    plan: Plan,
) -> tuple[Array, ExpertsSaved]:
    """Computes `experts` outside autograd and keeps the state for the backward; collective.

    Args:
        x: [T, H].
        topk_weights: [T, K].
        gate_up: [e, G, H] or [e, H, G].
        down: [e, H, F] or [e, F, H].
        gate_up_bias: [e, G] or None.
        down_bias: [e, H] or None.
        plan: From `experts_plan`.

    Returns:
        y [T, H], and the state for `experts_backward`.
    """
    weights = ExpertsWeights(gate_up, gate_up_bias, down, down_bias)
    check_tensors(x, weights, topk_weights=topk_weights)
    check_plan(plan, None, None)
    layer = plan.layer
    y, saved, *_ = forward(layer, x, None, topk_weights, weights, plan.memory, plan.size)
    kept_x = x if layer.backward_reads_x else None
    return y, ExpertsSaved(plan, saved, kept_x, topk_weights, weights)


def experts_backward(
    grad_y: Array,
    saved: ExpertsSaved,
    *,
    wanted: Collection[str] = OPTIONAL_GRADIENTS,
    overwrite_saved: bool = False,
) -> ExpertsGradients:
    """Returns the gradients of `experts_forward`; collective.

    Args:
        grad_y: [T, H].
        saved: What `experts_forward` returned.
        wanted: The gradients to compute besides that of x, by name.
        overwrite_saved: Whether this is the last use of `saved`: it becomes scratch memory.
    """
    grad_TH = plain("grad_y", grad_y, 2)
    same_kind("grad_y", grad_y, topk_weights=saved.topk_weights)
    of = {"topk_weights": saved.topk_weights, **saved.weights._asdict()}
    gradients = ExpertsGradients(
        empty(grad_TH, grad_TH.shape),
        *(
            empty(of[name], of[name].shape) if name in wanted and of[name] is not None else None
            for name in OPTIONAL_GRADIENTS
        ),
    )
    backward(
        saved.plan.layer,
        grad_TH,
        saved.x,
        saved.topk_weights,
        saved.weights,
        saved.plan.memory,
        saved.plan.size,
        saved.saved,
        gradients,
        overwrite_saved=overwrite_saved,
    )
    return gradients
