"""The experts path out of its single steps, for experts that have a function of their own inside.

Shapes: T tokens, H hidden size, K experts a token, N = T*K copies, E experts, P ranks, e experts
of this rank, R rows that it receives, G and F the width of a row before and after the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from autoep import functional
from autoep.comm import Communicator

RowFunction = Callable[[torch.Tensor], torch.Tensor]


def composed_experts(
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    gate_up_bias: torch.Tensor | None,
    down_bias: torch.Tensor | None,
    *,
    num_experts: int,
    comm: Communicator | None,
    layout: str,
    activate: RowFunction,
    normalize: RowFunction | None = None,
) -> torch.Tensor:
    """Does what `functional.experts` does, with any activation; collective.

    Args:
        x_TH: [T, H]; differentiable, as the weights are.
        topk_idx_TK: [T, K], each in [0, num_experts).
        topk_weights_TK: [T, K].
        gate_up: [e, G, H], or [e, H, G] for the layout "in_out".
        down: [e, H, F], or [e, F, H].
        gate_up_bias: [e, G] or None.
        down_bias: [e, H] or None.
        num_experts: E.
        comm: The ranks; None for this rank alone.
        layout: "out_in" or "in_out".
        activate: [R, G] to [R, F].
        normalize: [R, H] to [R, H], of each expert's result, before it is weighted.

    Returns:
        [T, H].
    """
    sent = functional.permute(x_TH, topk_idx_TK, num_experts)
    arrived = _dispatch(sent.rows, sent.tokens_per_expert, comm)
    groups = arrived.tokens_per_expert
    hidden_RG = functional.grouped_gemm(arrived.rows, gate_up, groups, layout=layout)
    hidden_RF = activate(_add_bias(hidden_RG, gate_up_bias, groups))
    rows_RH = functional.grouped_gemm(hidden_RF.to(x_TH.dtype), down, groups, layout=layout)
    rows_RH = _add_bias(rows_RH, down_bias, groups)
    if normalize is not None:
        rows_RH = normalize(rows_RH)
    back_NH = _combine(rows_RH, arrived, comm)
    return functional.unpermute(back_NH, sent.row_of_slot, topk_weights_TK)


class _Arrived(NamedTuple):
    """The rows of this rank's experts, and how they came.

    Attributes:
        rows: [R, H], by expert.
        tokens_per_expert: [e].
        send_rows: [P].
        receive_rows: [P].
        row_of_arrival: [R, 1], where in `rows` each one that arrived stands.
    """

    rows: torch.Tensor
    tokens_per_expert: torch.Tensor
    send_rows: list[int]
    receive_rows: list[int]
    row_of_arrival: torch.Tensor | None


def _dispatch(rows_NH: torch.Tensor, counts_E: torch.Tensor, comm: Communicator | None) -> _Arrived:
    """Sends rows in expert order to the ranks of their experts; collective."""
    if comm is None or comm.size == 1:
        return _Arrived(rows_NH, counts_E, [], [], None)
    ranges = [functional.expert_range(len(counts_E), comm.size, p) for p in range(comm.size)]
    experts_of_rank = [count for _, count in ranges]
    own = experts_of_rank[comm.rank]
    counts_Pe = functional.all_to_all(
        counts_E.unsqueeze(1), experts_of_rank, [own] * comm.size, comm=comm
    ).view(comm.size, own)
    # NOTE: the host reads how many rows come and go.
    send_rows = [int(part.sum()) for part in counts_E.split(experts_of_rank)]
    receive_rows = counts_Pe.sum(1).tolist()
    arriving_RH = functional.all_to_all(rows_NH, send_rows, receive_rows, comm=comm)
    expert_of_row_R = torch.arange(own, device=counts_Pe.device).repeat(comm.size)
    expert_of_row_R = expert_of_row_R.repeat_interleave(counts_Pe.reshape(-1).long())
    # A rank without experts has no rows, and the sort wants an expert.
    by_expert = functional.permute(arriving_RH, expert_of_row_R.unsqueeze(1), max(own, 1))
    groups_e = by_expert.tokens_per_expert[:own]
    return _Arrived(by_expert.rows, groups_e, send_rows, receive_rows, by_expert.row_of_slot)


def _combine(rows_RH: torch.Tensor, arrived: _Arrived, comm: Communicator) -> torch.Tensor:
    """Sends rows back to where they came from; collective."""
    if arrived.row_of_arrival is None:
        return rows_RH
    leaving_RH = functional.unpermute(rows_RH, arrived.row_of_arrival)
    return functional.all_to_all(leaving_RH, arrived.receive_rows, arrived.send_rows, comm=comm)


def _add_bias(rows: torch.Tensor, bias: torch.Tensor | None, groups: torch.Tensor) -> torch.Tensor:
    if bias is None:
        return rows
    # With the number of rows given, nobody waits for the device to count them.
    return rows + bias.repeat_interleave(groups.long(), dim=0, output_size=len(rows))
