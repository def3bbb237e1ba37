"""Plans: where each slot's row goes, for one set of choices."""

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
    """Where each slot's row goes. Made by `experts_plan`; serves any number of passes.

    Attributes:
        options: What the experts compute, as the engine takes it.
        comm: The ranks; None for this rank alone.
        num_tokens: T.
        rows: R, the rows of this rank's experts; T*K where only the device knows it.
        rows_capacity: The rows that the engine makes room for: R over several ranks, T*K on one.
        rows_per_expert: [e] int32, in the memory of the device.
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
        memory, self._tokens_per_expert, self.rows_per_expert, self.rows, self.rows_capacity = (
            planned
        )
        self._memory: Array | None = memory

    @property
    def memory(self) -> Array:
        """The plan as the engine takes it: bytes on its device."""
        if self._memory is None:
            raise InvalidHandleError("the plan was closed")
        return self._memory

    @property
    def layer(self) -> Layer:
        """The engine's layer that the plan is for."""
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
        """Returns how many slots of this rank each expert has, [E]; on a GPU this waits for it."""
        _ = self.memory
        return self._tokens_per_expert.tolist()

    def tokens_per_expert_received(self) -> list[int]:
        """Returns how many rows each of this rank's experts has, [e]; on a GPU this waits."""
        _ = self.memory
        return self.rows_per_expert.tolist()

    def close(self) -> None:
        """Frees the plan's memory at once; without this it is freed with its last reference."""
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
    """Sorts the choices by expert and tells the ranks what they will receive; collective.

    Args:
        topk_idx: [T, K] int32 or int64, each in [0, num_experts), or -1 for no expert.
        num_experts: E, over all ranks.
        hidden_size: H.
        ffn_size: F.
        dtype: Of x, the weights and y: "float32", "float64", "bfloat16", or torch's own; on a GPU
            "float32", "bfloat16" or "float16".
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
    """Makes a plan of options that were checked before; collective."""
    if comm is not None:
        handle_of(comm)
    tokens = topk_idx.shape[0]
    if is_torch(topk_idx) and sys.modules["torch"].compiler.is_compiling():
        return Plan(options, comm, tokens, torch_op("plan")(topk_idx, options, comm))
    idx_TK = dense(topk_idx)
    layer = layer_of(idx_TK, options, comm)
    return Plan(options, comm, tokens, layer.plan(idx_TK), layer)


def check_plan(plan: Plan, num_experts: int | None, comm: Communicator | None) -> None:
    """Checks that what is given beside a plan is what the plan was made with."""
    if not isinstance(plan, Plan):
        raise InvalidArgumentError(f"plan: expected a Plan, got {type(plan).__name__}")
    made_for = plan.options.num_experts
    if num_experts not in (None, made_for):
        raise InvalidArgumentError(
            f"num_experts: the plan was made for {made_for}, got {num_experts}"
        )
    if comm is not None and comm is not plan.comm:
        raise InvalidArgumentError("comm: the plan was made for another one; leave it out")


def check_tokens(name: str, array: Array, plan: Plan) -> None:
    """Checks that an array has a row per token of the plan."""
    if array.shape[0] != plan.num_tokens:
        raise InvalidArgumentError(
            f"{name}: the plan was made for {plan.num_tokens} tokens, got {array.shape[0]}"
        )


def check_rows(name: str, array: Array, plan: Plan) -> None:
    """Checks that an array has the plan's rows, as `dispatch` returned them."""
    if array.shape[0] != plan.rows:
        raise InvalidArgumentError(
            f"{name}: dispatch returned {plan.rows} rows of this plan, got {array.shape[0]}"
        )
