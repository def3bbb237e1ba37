"""Plans: the row of each slot, for one set of choices."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from autoep.core.arrays import Array, check_array, dense, is_torch
from autoep.core.native import engine
from autoep.core.options import Computing, ExpertsOptions, experts_options, integer
from autoep.distributed.communicator import Communicator, handle_of
from autoep.errors import InvalidArgumentError, InvalidHandleError
from autoep.functional._layer_handles import Layer, Planned, layer_of
from autoep.functional._torch_op import torch_op

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack


def expert_range(num_experts: int, num_ranks: int, rank: int) -> tuple[int, int]:
    """Returns the first expert of a rank and its number of experts.

    E experts are split over P ranks as by `torch.chunk` and DTensor's `Shard(0)`: ceil(E/P)
    each, fewer or none on the last ranks.

    Args:
        num_experts: E.
        num_ranks: P.
        rank: In [0, P).
    """
    return engine.expert_range(
        integer("num_experts", num_experts, 1),
        integer("num_ranks", num_ranks, 1),
        integer("rank", rank),
    )


class Plan:
    """The row of each slot. Made by `experts_plan`; serves any number of passes.

    Attributes:
        options: The options of the experts, in the engine's form.
        comm: The ranks; None for this rank alone.
        num_tokens: T.
        rows: R, the rows of this rank's experts; T*K if only the device knows it.
        size: The counts that the engine's calls take with the plan.
        rows_per_expert: [e] int32, in device memory.
    """

    def __init__(
        self,
        options: ExpertsOptions,
        comm: Communicator | None,
        num_tokens: int,
        planned: Planned,
        layer: Layer | None = None,
    ) -> None:
        self.options = options
        self._layer = layer
        self.comm = comm
        self.num_tokens = num_tokens
        memory, self._tokens_per_expert, self.rows_per_expert, self.rows, self.size = planned
        self._memory: Array | None = memory

    @property
    def rows_capacity(self) -> int:
        """The rows for which the engine allocates: R over several ranks, T*K on one."""
        return self.size.capacity

    @property
    def memory(self) -> Array:
        """The plan's bytes, on its device."""
        if self._memory is None:
            raise InvalidHandleError("the plan was closed")
        return self._memory

    @property
    def layer(self) -> Layer:
        """The engine's layer for which the plan was made."""
        return self._layer or layer_of(self.memory, self.options, self.comm)

    @property
    def first_expert(self) -> int:
        """This rank's first expert."""
        return self.layer.first_expert

    @property
    def local_experts(self) -> int:
        """The number of this rank's experts, e."""
        return self.layer.local_experts

    def tokens_per_expert_sent(self) -> list[int]:
        """Returns the number of this rank's slots per expert, [E]; synchronizes with a GPU."""
        _ = self.memory
        return self._tokens_per_expert.tolist()

    def tokens_per_expert_received(self) -> list[int]:
        """Returns the number of rows per expert of this rank, [e]; synchronizes with a GPU."""
        _ = self.memory
        return self.rows_per_expert.tolist()

    def close(self) -> None:
        """Frees the plan's memory now rather than with the last reference to the plan."""
        self._memory = None


def experts_plan(
    topk_idx: Array,
    *,
    num_experts: int,
    hidden_size: int,
    ffn_size: int,
    dtype: str | torch.dtype,
    comm: Communicator | None = None,
    **computing: Unpack[Computing],
) -> Plan:
    """Sorts the choices by expert and exchanges the row counts between ranks; collective.

    Args:
        topk_idx: [T, K] int32 or int64, each in [0, num_experts), or -1 for no expert.
        num_experts: E, over all ranks.
        hidden_size: H.
        ffn_size: F.
        dtype: The dtype of x, the weights and y: "float32", "float64", "bfloat16" or torch's own;
            on a GPU "float32", "bfloat16" or "float16".
        comm: The ranks; None for this rank alone.
        **computing: activation, gate, layout, score_apply, swiglu_alpha and swiglu_limit;
            `Computing` documents them.

    Returns:
        The plan.
    """
    check_array("topk_idx", topk_idx, 2)
    options = experts_options(
        num_experts, topk_idx.shape[1], hidden_size, ffn_size, dtype, **computing
    )
    return make_plan(topk_idx, options, comm)


def make_plan(topk_idx: Array, options: ExpertsOptions, comm: Communicator | None) -> Plan:
    """Makes a plan for options that are already checked; collective."""
    if comm is not None:
        handle_of(comm)
    tokens = topk_idx.shape[0]
    if is_torch(topk_idx) and sys.modules["torch"].compiler.is_compiling():
        return Plan(options, comm, tokens, torch_op("plan")(topk_idx, options, comm))
    idx_TK = dense(topk_idx)
    layer = layer_of(idx_TK, options, comm)
    return Plan(options, comm, tokens, layer.plan(idx_TK), layer)


def check_plan(plan: Plan, num_experts: int | None, comm: Communicator | None) -> None:
    """Raises unless the arguments given beside a plan match it."""
    if not isinstance(plan, Plan):
        raise InvalidArgumentError(f"plan: expected a Plan, got {type(plan).__name__}")
    made_for = plan.options.num_experts
    if num_experts not in (None, made_for):
        raise InvalidArgumentError(
            f"num_experts: the plan was made for {made_for}, got {num_experts}"
        )
    if comm is not None and comm is not plan.comm:
        raise InvalidArgumentError("comm: the plan was made for another communicator; omit it")


def check_tokens(name: str, array: Array, plan: Plan) -> None:
    """Raises unless an array has one row per token of the plan."""
    if array.shape[0] != plan.num_tokens:
        raise InvalidArgumentError(
            f"{name}: the plan was made for {plan.num_tokens} tokens, got {array.shape[0]}"
        )


def check_rows(name: str, array: Array, plan: Plan) -> None:
    """Raises unless an array has the plan's rows, as `dispatch` returned them."""
    if array.shape[0] != plan.rows:
        raise InvalidArgumentError(
            f"{name}: dispatch returned {plan.rows} rows for this plan, got {array.shape[0]}"
        )
