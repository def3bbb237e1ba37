"""The experts of a layer, wherever they are: dispatch, compute, combine."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from autoep._arrays import (
    Array,
    dtype_name,
    empty,
    is_torch,
    on_gpu,
    plain,
    same_kind,
    workspace,
)
from autoep._native import engine
from autoep._options import ACTIVATIONS, GATES, LAYOUTS, SCORE_APPLIES, choice, real
from autoep.comm import Communicator
from autoep.errors import InvalidArgumentError, UnsupportedError
from autoep.functional._plan import (
    Activation,
    Gate,
    Layout,
    Plan,
    ScoreApply,
    experts_options,
    experts_plan,
)


class ExpertsSaved(NamedTuple):
    """What `experts_backward` needs of a forward.

    Attributes:
        plan: The plan it followed.
        x: [T, H]; None where the backward does not read it.
        topk_weights: [T, K].
        gate_up: [e, G, H], or [e, H, G] for the layout "in_out".
        gate_up_bias: [e, G] or None.
        down: [e, H, F], or [e, F, H].
        down_bias: [e, H] or None.
        rows: [S, H], what this rank received, where the experts did not read it from x.
        hidden: [R, G], the pre-activation.
        expert_rows: [N, H], each copy's result; None if the weights were applied before.
    """

    plan: Plan
    x: Array | None
    topk_weights: Array
    gate_up: Array
    gate_up_bias: Array | None
    down: Array
    down_bias: Array | None
    rows: Array
    hidden: Array
    expert_rows: Array | None


class ExpertsGradients(NamedTuple):
    """The gradients of `experts`, each of the shape of what it is the gradient to.

    Those that were not wanted, and those to biases that there are not, are None.
    """

    x: Array
    topk_weights: Array | None
    gate_up: Array | None
    gate_up_bias: Array | None
    down: Array | None
    down_bias: Array | None


class GradBuffers(NamedTuple):
    """Where a backward adds the gradients of the weights: float32, dense, of their shapes.

    None for a weight that there is not, or that requires no gradient.
    """

    gate_up: Array | None
    gate_up_bias: Array | None
    down: Array | None
    down_bias: Array | None


# The gradients that a caller can do without.
OPTIONAL_GRADIENTS = ("topk_weights", "gate_up", "gate_up_bias", "down", "down_bias")

_DEFAULTS = {
    "activation": "silu",
    "gate": "concatenated",
    "layout": "out_in",
    "score_apply": "after",
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}


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
    activation: Activation = "silu",
    gate: Gate = "concatenated",
    layout: Layout = "out_in",
    score_apply: ScoreApply = "after",
    swiglu_alpha: float = 1.702,
    swiglu_limit: float = 7.0,
    grad_buffers: GradBuffers | None = None,
) -> Array:
    """Sends each token to its experts and returns the weighted sum of their results; collective.

    y[t] is the sum over k, in k order, of topk_weights[t, k] times expert topk_idx[t, k] of x[t].
    The result and the gradient to x have the same bits for every number of ranks.

    Every rank makes the call, and its backward, also one that has no tokens or no experts: such
    a rank passes tensors of zero rows. The backward is a collective of its own.

    On a GPU this rank is alone: there is neither plan nor communicator. Nothing waits for the
    device; a choice outside of [0, E) contributes nothing, and a later call raises for it. Under
    autocast x, the weights and y are of its dtype, as with `torch.nn.functional.linear`.

    Args:
        x: [T, H] float32, float64 or bfloat16 (on a GPU float32, bfloat16 or float16);
            differentiable, as all that follow but topk_idx.
        topk_idx: [T, K] int32 or int64, each in [0, num_experts); not read with `plan`, which
            has it already.
        topk_weights: [T, K] float32, float64 or bfloat16 (on a GPU float32, bfloat16 or float16).
        gate_up: [e, G, H], or [e, H, G] for the layout "in_out": this rank's experts.
        down: [e, H, F], or [e, F, H].
        gate_up_bias: [e, G] or None.
        down_bias: [e, H] or None.
        num_experts: E, over all ranks; may be None when this rank is alone.
        comm: The ranks; None for this rank alone.
        plan: From `experts_plan`, to follow one made before. It decides the choices, the ranks
            and the options; giving others beside it is an error.
        activation: As in `experts_plan`, like the rest.
        gate: "concatenated", "interleaved" or "none".
        layout: "out_in" or "in_out".
        score_apply: "after" or "before".
        swiglu_alpha: Of "clamped_swiglu".
        swiglu_limit: Of the clamped activations.
        grad_buffers: On a GPU, where the backward adds the gradients of the weights; their `grad`
            stays None.

    Returns:
        y, [T, H] in the dtype of x.
    """
    if on_gpu(x):
        from autoep.functional._local_experts import local_experts

        _check_alone(gate_up, num_experts, comm, plan)
        return local_experts(
            x,
            topk_idx,
            topk_weights,
            (gate_up, gate_up_bias, down, down_bias),
            local_options(
                activation=activation,
                gate=gate,
                layout=layout,
                score_apply=score_apply,
                swiglu_alpha=swiglu_alpha,
                swiglu_limit=swiglu_limit,
            ),
            None if grad_buffers is None else tuple(grad_buffers),
        )
    if grad_buffers is not None:
        raise UnsupportedError("grad_buffers: gradients are added to buffers on GPUs only")
    options = {
        "activation": activation,
        "gate": gate,
        "layout": layout,
        "score_apply": score_apply,
        "swiglu_alpha": swiglu_alpha,
        "swiglu_limit": swiglu_limit,
    }
    if plan is None:
        plan = _plan(x, topk_idx, gate_up, down, num_experts, comm, options)
    else:
        _check_options(plan, num_experts, comm, options)
    if is_torch(x):
        from autoep._autograd import Experts

        return Experts.apply(plan, x, topk_weights, gate_up, gate_up_bias, down, down_bias)
    y, _ = experts_forward(
        x,
        topk_weights,
        gate_up,
        down,
        gate_up_bias=gate_up_bias,
        down_bias=down_bias,
        plan=plan,
    )
    return y


def local_options(
    *,
    activation: Activation = "silu",
    gate: Gate = "concatenated",
    layout: Layout = "out_in",
    score_apply: ScoreApply = "after",
    swiglu_alpha: float = 1.702,
    swiglu_limit: float = 7.0,
) -> tuple[int, int, int, int, float, float]:
    """The options of the experts on one GPU, in the engine's numbers."""
    return (
        choice("activation", activation, ACTIVATIONS),
        choice("gate", gate, GATES),
        choice("layout", layout, LAYOUTS),
        choice("score_apply", score_apply, SCORE_APPLIES),
        real("swiglu_alpha", swiglu_alpha),
        real("swiglu_limit", swiglu_limit),
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
    """Does what `experts` does outside of autograd, and keeps what the backward needs; collective.

    Args:
        x: [T, H].
        topk_weights: [T, K].
        gate_up: [e, G, H] or [e, H, G].
        down: [e, H, F] or [e, F, H].
        gate_up_bias: [e, G] or None.
        down_bias: [e, H] or None.
        plan: From `experts_plan`.

    Returns:
        y [T, H], and what `experts_backward` takes.
    """
    x_TH = plain("x", x, 2)
    weights_TK = plain("topk_weights", topk_weights, 2)
    weights = _plain_weights(gate_up, gate_up_bias, down, down_bias)
    same_kind(
        "x",
        x,
        topk_weights=topk_weights,
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
    )
    options = plan.options
    hidden_size = options.hidden_size
    rows_SH = empty(x_TH, (plan.saved_rows, hidden_size))
    hidden_RG = empty(x_TH, (plan.rows_received, options.gate_up_size))
    expert_rows_NH = empty(x_TH, (plan.rows_sent, hidden_size))
    y_TH = empty(x_TH, (plan.num_tokens, hidden_size))
    engine.experts_forward(
        plan.context,
        plan.handle,
        weights,
        x_TH,
        weights_TK,
        rows_SH,
        hidden_RG,
        expert_rows_NH,
        y_TH,
        workspace(x_TH, plan.forward_workspace_bytes),
    )
    before = options.score_apply == SCORE_APPLIES["before"]
    saved = ExpertsSaved(
        plan=plan,
        x=x if before or plan.saved_rows < plan.rows_received else None,
        topk_weights=topk_weights,
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
        rows=rows_SH,
        hidden=hidden_RG,
        expert_rows=None if before else expert_rows_NH,
    )
    return y_TH, saved


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
        wanted: The gradients to compute beside that to x, by name.
        overwrite_saved: Whether `saved` is not read again: its memory is worked in.
    """
    plan = saved.plan
    grad_TH = plain("grad_y", grad_y, 2)
    same_kind("grad_y", grad_y, rows=saved.rows)
    weights = (saved.gate_up, saved.gate_up_bias, saved.down, saved.down_bias)
    gradients = ExpertsGradients(
        x=empty(grad_TH, (plan.num_tokens, plan.options.hidden_size)),
        **{
            name: empty(of, of.shape) if name in wanted and of is not None else None
            for name, of in ((name, getattr(saved, name)) for name in OPTIONAL_GRADIENTS)
        },
    )
    workspace_bytes = plan.backward_workspace_bytes
    if gradients.gate_up is not None:
        # Its memory is worked in too.
        workspace_bytes = plan.gate_up_backward_workspace_bytes
    engine.experts_backward(
        plan.context,
        plan.handle,
        _plain_weights(*weights),
        grad_TH,
        None if saved.x is None else plain("x", saved.x, 2),
        plain("topk_weights", saved.topk_weights, 2),
        saved.rows,
        saved.hidden,
        saved.expert_rows,
        saved.hidden if overwrite_saved else empty(grad_TH, saved.hidden.shape),
        gradients.x,
        gradients.topk_weights,
        (gradients.gate_up, gradients.gate_up_bias, gradients.down, gradients.down_bias),
        workspace(grad_TH, workspace_bytes),
    )
    return gradients


def _plain_weights(
    gate_up: Array, gate_up_bias: Array | None, down: Array, down_bias: Array | None
) -> tuple[Array, Array | None, Array, Array | None]:
    return (
        plain("gate_up", gate_up, 3),
        None if gate_up_bias is None else plain("gate_up_bias", gate_up_bias, 2),
        plain("down", down, 3),
        None if down_bias is None else plain("down_bias", down_bias, 2),
    )


def _plan(
    x: Array,
    topk_idx: Array | None,
    gate_up: Array,
    down: Array,
    num_experts: int | None,
    comm: Communicator | None,
    options: dict[str, Any],
) -> Plan:
    """Makes the plan of one call; the sizes are those of the tensors."""
    down_shape = plain("down", down, 3).shape
    if num_experts is None:
        if comm is not None and comm.size > 1:
            raise InvalidArgumentError(
                "num_experts: expected the number of experts over all ranks, got None; it may be"
                " left out when a rank is alone only"
            )
        num_experts = plain("gate_up", gate_up, 3).shape[0]
    return experts_plan(
        topk_idx,
        num_experts=num_experts,
        hidden_size=plain("x", x, 2).shape[1],
        ffn_size=down_shape[1 if options["layout"] == "in_out" else 2],
        dtype=dtype_name(x),
        comm=comm,
        **options,
    )


def _check_alone(
    gate_up: Array, num_experts: int | None, comm: Communicator | None, plan: Plan | None
) -> None:
    """Checks that a call on a GPU asks for no other rank."""
    if plan is not None or (comm is not None and comm.size > 1):
        raise UnsupportedError(
            f"{'comm' if plan is None else 'plan'}: x is on a GPU, and expert parallelism over"
            " several GPUs is not in this version yet; leave it out, with all experts on this GPU"
        )
    if num_experts not in (None, gate_up.shape[0]):
        raise InvalidArgumentError(
            f"num_experts: gate_up has {gate_up.shape[0]} experts, got {num_experts}"
        )


def _check_options(
    plan: Plan, num_experts: int | None, comm: Communicator | None, options: dict[str, Any]
) -> None:
    """Checks that what is given beside a plan is what the plan was made with."""
    if not isinstance(plan, Plan):
        raise InvalidArgumentError(f"plan: expected a Plan, got {type(plan).__name__}")
    made = plan.options
    sizes = (made.num_experts, made.hidden_size, made.ffn_size, made.dtype_name)
    if num_experts not in (None, made.num_experts):
        raise InvalidArgumentError(
            f"num_experts: the plan was made for {made.num_experts}, got {num_experts}"
        )
    if comm is not None and comm is not plan.comm:
        raise InvalidArgumentError("comm: the plan was made for another one; leave it out")
    if options != _DEFAULTS and experts_options(*sizes, **options) != made:
        raise InvalidArgumentError(
            "options: the plan was made with others; leave them out or give the same"
        )
