"""Plans: where each routed copy goes, for one set of choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoep._arrays import Array, plain
from autoep._native import engine
from autoep._options import (
    ACTIVATIONS,
    DTYPES,
    GATES,
    LAYOUTS,
    SCORE_APPLIES,
    ExpertsOptions,
    choice,
    integer,
    real,
)
from autoep.comm import Communicator, handle_of
from autoep.functional._runtime import context

if TYPE_CHECKING:
    import torch

_INT64_MAX = 2**63 - 1

Activation = Literal["silu", "gelu", "gelu_tanh", "relu_squared", "clamped_swiglu", "clamped_silu"]
Gate = Literal["none", "concatenated", "interleaved"]
Layout = Literal["out_in", "in_out"]
ScoreApply = Literal["after", "before"]


def expert_range(num_experts: int, num_ranks: int, rank: int) -> tuple[int, int]:
    """Returns the first expert of a rank and its number of experts.

    E experts are split over P ranks as `torch.chunk` and DTensor's `Shard(0)` split: ceil(E/P)
    each, the last ranks fewer or none.

    Args:
        num_experts: E.
        num_ranks: P.
        rank: From 0 to below P.
    """
    return engine.expert_range(
        integer("num_experts", num_experts, 1),
        integer("num_ranks", num_ranks, 1),
        integer("rank", rank),
    )


class Plan:
    """Where each routed copy goes. Made by `experts_plan`; serves any number of passes.

    Attributes:
        options: What the experts compute, as the engine takes it.
        comm: The ranks.
        num_tokens: T.
        rows_sent: N.
        rows_received: R.
        first_expert: This rank's first expert.
        local_experts: e, the number of this rank's experts.
        saved_rows: S, the rows that a forward keeps for its backward beside x: R, or 0 where the
            experts read their rows from x.
    """

    def __init__(self, topk_idx: Array, options: ExpertsOptions, comm: Communicator) -> None:
        self.options = options
        self.comm = comm
        # The plan keeps the threads and the counters that it was made with.
        self.context = context()
        self.handle, info = engine.experts_plan(
            self.context, handle_of(comm), tuple(options), plain("topk_idx", topk_idx, 2)
        )
        (
            self.num_tokens,
            self.rows_sent,
            self.rows_received,
            self.first_expert,
            self.local_experts,
            self.saved_rows,
            self.forward_workspace_bytes,
            self.backward_workspace_bytes,
            self.gate_up_backward_workspace_bytes,
        ) = info

    def tokens_per_expert_sent(self) -> list[int]:
        """Returns how many copies this rank routed to each expert, [E]."""
        return engine.plan_tokens_per_expert(self.handle)[0]

    def tokens_per_expert_received(self) -> list[int]:
        """Returns how many copies arrived for each of this rank's experts, [e]."""
        return engine.plan_tokens_per_expert(self.handle)[1]

    def close(self) -> None:
        """Frees the plan at once; without this it is freed with its last reference."""
        self.handle.close()


def experts_plan(
    topk_idx: Array,
    *,
    num_experts: int,
    hidden_size: int,
    ffn_size: int,
    dtype: str | torch.dtype,
    comm: Communicator | None = None,
    activation: Activation = "silu",
    gate: Gate = "concatenated",
    layout: Layout = "out_in",
    score_apply: ScoreApply = "after",
    swiglu_alpha: float = 1.702,
    swiglu_limit: float = 7.0,
) -> Plan:
    """Sorts the choices by expert and tells the ranks what they will receive; collective.

    Args:
        topk_idx: [T, K] int32 or int64, each in [0, num_experts).
        num_experts: E, over all ranks.
        hidden_size: H.
        ffn_size: F.
        dtype: Of x, the weights and y: "float32", "float64", "bfloat16", or torch's own.
        comm: The ranks; None for this rank alone.
        activation: "silu", "gelu" (erf), "gelu_tanh", "relu_squared"; with
            g = min(gate, limit) and u = up within ±limit, "clamped_swiglu", which is gpt-oss's,
            (u + 1) g sigmoid(alpha g), or "clamped_silu", u silu(g).
        gate: "concatenated": the pre-activation is [gate | up]. "interleaved": gate, up, gate,
            up, ... "none": it has no gate.
        layout: "out_in": weights are [e, G, H] and [e, H, F]. "in_out": [e, H, G] and [e, F, H].
        score_apply: Whether a token's weight multiplies the experts' results ("after") or their
            input ("before").
        swiglu_alpha: Of "clamped_swiglu".
        swiglu_limit: Of the clamped activations; above 0.

    Returns:
        The plan.
    """
    options = experts_options(
        num_experts,
        hidden_size,
        ffn_size,
        dtype,
        activation=activation,
        gate=gate,
        layout=layout,
        score_apply=score_apply,
        swiglu_alpha=swiglu_alpha,
        swiglu_limit=swiglu_limit,
    )
    return Plan(topk_idx, options, Communicator.alone() if comm is None else comm)


def experts_options(
    num_experts: int,
    hidden_size: int,
    ffn_size: int,
    dtype: str | torch.dtype,
    *,
    activation: Activation,
    gate: Gate,
    layout: Layout,
    score_apply: ScoreApply,
    swiglu_alpha: float,
    swiglu_limit: float,
) -> ExpertsOptions:
    """Checks the types of the options; whether they fit together is the engine's to say."""
    return ExpertsOptions(
        num_experts=integer("num_experts", num_experts, 1),
        hidden_size=integer("hidden_size", hidden_size, 1, _INT64_MAX),
        ffn_size=integer("ffn_size", ffn_size, 1, _INT64_MAX),
        dtype=choice("dtype", str(dtype).removeprefix("torch."), DTYPES),
        activation=choice("activation", activation, ACTIVATIONS),
        gate=choice("gate", gate, GATES),
        weight_layout=choice("layout", layout, LAYOUTS),
        score_apply=choice("score_apply", score_apply, SCORE_APPLIES),
        swiglu_alpha=real("swiglu_alpha", swiglu_alpha),
        swiglu_limit=real("swiglu_limit", swiglu_limit),
    )
