"""The C interface of libautoep.so, one function each; see include/autoep.h.

Tensors are any DLPack producers. They are borrowed for the duration of the call, and outputs
are written in place.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from autoep.errors import Error

class _Transport(Protocol):
    def start(self, send: list[memoryview], receive: list[memoryview]) -> Any: ...
    def wait(self, request: Any, timeout_seconds: float) -> Sequence[int]: ...

class Handle:
    """Owns a context, a communicator or a layer of the engine."""

    @property
    def is_open(self) -> bool: ...
    def close(self) -> None: ...

def version() -> str: ...
def context_create(
    device_type: int, device_id: int, num_threads: int, stream: int, nvrtc_path: str | None
) -> Handle: ...
def context_num_threads(context: Handle) -> int: ...
def context_statistics(context: Handle) -> tuple[int, int, int, int, int, int]: ...
def context_reset_statistics(context: Handle) -> None: ...
def comm_create_self() -> Handle: ...
def comm_create_local(size: int, timeout: float) -> list[Handle]: ...
def comm_create_callback(transport: _Transport, rank: int, size: int, timeout: float) -> Handle: ...
def comm_create_mpi(library_path: str, ranks: Sequence[int] | None, timeout: float) -> Handle: ...
def mpi_finalize() -> None: ...
def nccl_unique_id(library_path: str | None) -> bytes: ...
def comm_create_nccl(
    unique_id: bytes, rank: int, size: int, device: int, timeout: float, library_path: str | None
) -> Handle: ...
def comm_create_push(
    control: Handle, device: int, timeout: float, nvrtc_path: str | None
) -> Handle: ...
def comm_rank(comm: Handle) -> tuple[int, int]: ...
def comm_abort(comm: Handle, reason: str | None) -> None: ...
def comm_health(comm: Handle) -> Error | None: ...
def all_to_all(
    comm: Handle,
    send: Any,
    send_rows: Sequence[int],
    receive: Any,
    receive_rows: Sequence[int],
) -> None: ...
def exchange_counts(comm: Handle, counts: Sequence[int]) -> list[int]: ...
def all_reduce(comm: Handle, data: Any) -> None: ...
def barrier(comm: Handle) -> None: ...
def route(
    context: Handle,
    config: tuple,
    logits: Any,
    selection_bias: Any,
    topk_idx: Any,
    topk_weights: Any,
    tokens_per_expert: Any,
) -> None: ...
def router_forward(
    context: Handle,
    config: tuple,
    x: Any,
    router: Any,
    selection_bias: Any,
    logits: Any,
    topk_idx: Any,
    topk_weights: Any,
    tokens_per_expert: Any,
) -> None: ...
def route_backward(
    context: Handle,
    config: tuple,
    logits: Any,
    topk_idx: Any,
    grad_topk_weights: Any,
    grad_logits: Any,
) -> None: ...
def router_z_loss(context: Handle, logits: Any, loss: Any) -> None: ...
def router_z_loss_backward(
    context: Handle, logits: Any, grad_loss: Any, grad_logits: Any
) -> None: ...
def jitter(context: Handle, x: Any, epsilon: float, seed: int, y: Any) -> None: ...
def sort_by_expert(
    context: Handle, topk_idx: Any, num_experts: int, row_of_slot: Any, tokens_per_expert: Any
) -> None: ...
def permute(context: Handle, x: Any, row_of_slot: Any, rows: Any) -> None: ...
def permute_backward(context: Handle, grad_rows: Any, row_of_slot: Any, grad_x: Any) -> None: ...
def unpermute(context: Handle, rows: Any, row_of_slot: Any, topk_weights: Any, y: Any) -> None: ...
def unpermute_backward(
    context: Handle,
    grad_y: Any,
    rows: Any,
    row_of_slot: Any,
    topk_weights: Any,
    grad_rows: Any,
    grad_topk_weights: Any,
) -> None: ...
def grouped_gemm(
    context: Handle, rows: Any, weights: Any, layout: int, rows_per_group: Any, out: Any
) -> None: ...
def grouped_gemm_weight_grad(
    context: Handle, grad_out: Any, rows: Any, layout: int, rows_per_group: Any, grad_weights: Any
) -> None: ...
def expert_range(num_experts: int, num_ranks: int, rank: int) -> tuple[int, int]: ...
def layer_create(
    context: Handle, config: tuple, comm: Handle | None
) -> tuple[Handle, tuple[int, int, int, int, int, int, int, int, int]]: ...
def layer_workspace(
    context: Handle,
    layer: Handle,
    num_tokens: int,
    rows_capacity: int,
    arriving_tokens: int,
    overwrite_saved: bool,
    lends_gate_up: bool,
    lends_grad_x: bool,
) -> tuple[int, int, int, int]: ...
def layer_plan(
    context: Handle,
    layer: Handle,
    topk_idx: Any,
    plan: Any,
    tokens_per_expert: Any,
    rows_per_expert: Any,
    workspace: Any,
) -> tuple[int, int, int, int]: ...
def layer_forward(
    context: Handle,
    layer: Handle,
    weights: tuple,
    x: Any,
    topk_weights: Any,
    topk_idx: Any,
    tokens_per_expert: Any,
    plan: Any,
    rows_capacity: int,
    arriving_tokens: int,
    plan_id: int,
    saved: Any,
    y: Any,
    workspace: Any,
) -> None: ...
def layer_backward(
    context: Handle,
    layer: Handle,
    weights: tuple,
    grad_y: Any,
    x: Any,
    topk_weights: Any,
    plan: Any,
    rows_capacity: int,
    arriving_tokens: int,
    plan_id: int,
    saved: Any,
    overwrite_saved: bool,
    grad_x: Any,
    grad_topk_weights: Any,
    grad_weights: tuple,
    accumulate: bool,
    workspace: Any,
) -> None: ...
def dispatch(
    context: Handle,
    layer: Handle,
    plan: Any,
    rows_capacity: int,
    arriving_tokens: int,
    plan_id: int,
    x: Any,
    topk_weights: Any,
    rows: Any,
    workspace: Any,
) -> None: ...
def combine(
    context: Handle,
    layer: Handle,
    plan: Any,
    rows_capacity: int,
    arriving_tokens: int,
    plan_id: int,
    rows: Any,
    topk_weights: Any,
    y: Any,
    workspace: Any,
) -> None: ...
def combine_backward(
    context: Handle,
    layer: Handle,
    plan: Any,
    rows_capacity: int,
    arriving_tokens: int,
    plan_id: int,
    grad_y: Any,
    rows: Any,
    topk_weights: Any,
    grad_rows: Any,
    grad_topk_weights: Any,
    workspace: Any,
) -> None: ...
