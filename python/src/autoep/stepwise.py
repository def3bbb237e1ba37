"""The experts path in steps, for experts with a function that the engine does not have.

The engine sorts, sends and multiplies; between its products the model's own function runs.

Shapes: T tokens of this rank, H hidden size, K experts a token, N = T*K routed copies, P ranks,
E experts, e of this rank, R rows that this rank receives, G and F before and after the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from autoep import functional
from autoep.comm import Communicator
from autoep.functional import Layout

Function = Callable[[torch.Tensor], torch.Tensor]


class ExpertsWeights(NamedTuple):
    """This rank's part of the weights: [e, G, H] or [e, H, G]; [e, G]; [e, H, F] or so; [e, H]."""

    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


def experts_in_steps(
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    weights: ExpertsWeights,
    *,
    num_experts: int,
    comm: Communicator,
    layout: Layout,
    activation: Function,
    post_norm: Function | None,
) -> tuple[torch.Tensor, list[int]]:
    """Sends the tokens to their experts and returns the weighted sums; collective.

    Args:
        x_TH: [T, H].
        topk_idx_TK: [T, K], each in [0, E).
        topk_weights_TK: [T, K].
        weights: This rank's experts.
        num_experts: E.
        comm: The ranks.
        layout: Of the weights.
        activation: Rows [R, G] to [R, F], row by row.
        post_norm: Rows [N, H] to [N, H], row by row; None for none.

    Returns:
        [T, H], and how many copies this rank routed to each expert, [E].
    """
    rows_NH, row_of_slot_TK, counts_E = functional.permute(x_TH, topk_idx_TK, num_experts)
    exchange = _Exchange(counts_E, num_experts, comm)
    rows_RH = exchange.dispatch(rows_NH)
    # A rank without experts receives nothing; sorting wants one to count.
    sorted_RH, row_of_slot_R1, counts = functional.permute(
        rows_RH, exchange.expert_of_row(), max(1, exchange.local_experts)
    )
    counts_e = counts[: exchange.local_experts]
    hidden_RG = functional.grouped_gemm(sorted_RH, weights.gate_up, counts_e, layout=layout)
    activated_RF = activation(_with_bias(hidden_RG, weights.gate_up_bias, counts_e))
    out_RH = functional.grouped_gemm(activated_RF, weights.down, counts_e, layout=layout)
    out_RH = _with_bias(out_RH, weights.down_bias, counts_e)
    results_NH = exchange.combine(functional.unpermute(out_RH, row_of_slot_R1))
    if post_norm is not None:
        results_NH = post_norm(results_NH)
    y_TH = functional.unpermute(results_NH, row_of_slot_TK, topk_weights_TK)
    return y_TH, counts_E.tolist()


def _with_bias(
    rows: torch.Tensor, bias: torch.Tensor | None, counts_e: torch.Tensor
) -> torch.Tensor:
    return rows if bias is None else rows + bias.repeat_interleave(counts_e.long(), dim=0)


class _Exchange:
    """Rows to the ranks of their experts, and back; collective."""

    def __init__(self, counts_E: torch.Tensor, num_experts: int, comm: Communicator) -> None:
        ranges = [
            functional.expert_range(num_experts, comm.size, rank) for rank in range(comm.size)
        ]
        experts_of_rank = [count for _, count in ranges]
        self.local_experts = experts_of_rank[comm.rank]
        self._comm = comm
        # How many rows come from each rank for each of this rank's experts.
        self._counts_Pe = functional.all_to_all(
            counts_E, experts_of_rank, [self.local_experts] * comm.size, comm=comm
        ).view(comm.size, self.local_experts)
        self._sent = [int(part.sum()) for part in counts_E.split(experts_of_rank)]
        self._received = self._counts_Pe.sum(dim=1).tolist()

    def expert_of_row(self) -> torch.Tensor:
        """The local expert of each row received, [R, 1]."""
        local = torch.arange(self.local_experts).repeat(self._comm.size)
        return local.repeat_interleave(self._counts_Pe.flatten().long()).view(-1, 1)

    def dispatch(self, rows_NH: torch.Tensor) -> torch.Tensor:
        """[N, H] to [R, H]."""
        return functional.all_to_all(rows_NH, self._sent, self._received, comm=self._comm)

    def combine(self, rows_RH: torch.Tensor) -> torch.Tensor:
        """[R, H] to [N, H]."""
        return functional.all_to_all(rows_RH, self._received, self._sent, comm=self._comm)
