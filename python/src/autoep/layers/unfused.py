"""Experts composed of dispatch, products and combine, for functions that the engine lacks.

Shapes: T tokens, H hidden size, K experts per token, E experts, e of this rank, R rows of this
rank's experts, G and F the width of a row before and after the activation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from autoep import functional
from autoep.distributed.communicator import Communicator
from autoep.functional import ExpertsWeights, Layout, ScoreApply

RowFunction = Callable[[torch.Tensor], torch.Tensor]


def composed_experts(
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    weights: ExpertsWeights,
    *,
    num_experts: int,
    comm: Communicator | None,
    layout: Layout,
    score_apply: ScoreApply,
    activate: RowFunction,
    normalize: RowFunction | None = None,
) -> torch.Tensor:
    """Computes `functional.experts` with any activation; collective.

    Args:
        x_TH: [T, H]; differentiable, like the weights.
        topk_idx_TK: [T, K], each in [0, num_experts), or -1 for no expert.
        topk_weights_TK: [T, K].
        weights: The weights of this rank's experts.
        num_experts: E.
        comm: The ranks; None for a single rank.
        layout: "out_in" or "in_out".
        score_apply: Whether a token's weight multiplies the experts' results ("after") or their
            input ("before").
        activate: [R, G] to [R, F].
        normalize: [R, H] to [R, H], applied to each expert's result before its weight.

    Returns:
        [T, H].
    """
    on_input, on_output = topk_weights_TK, None
    if score_apply == "after":
        on_input, on_output = None, topk_weights_TK
    rows_RH, groups, plan = functional.dispatch(
        x_TH, topk_idx_TK, num_experts=num_experts, comm=comm, topk_weights=on_input
    )
    is_alone = plan.comm is None or plan.comm.size == 1
    product = _Product(groups, layout, has_gaps=x_TH.is_cuda and is_alone)
    hidden_RG = product(rows_RH, weights.gate_up, weights.gate_up_bias)
    hidden_RF = activate(hidden_RG).to(x_TH.dtype)
    rows_RH = product(hidden_RF, weights.down, weights.down_bias)
    if normalize is not None:
        rows_RH = normalize(rows_RH)
    return functional.combine(rows_RH, plan, on_output)


class _Product:
    """Multiplies rows by the weights of their experts, and adds the biases."""

    def __init__(self, groups: torch.Tensor, layout: Layout, has_gaps: bool) -> None:
        self._groups = groups
        self._layout = layout
        # Whether there is memory behind the rows, whose beginning only the device knows.
        self._has_gaps = has_gaps

    def __call__(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        count = len(rows)
        groups = self._groups.long()
        if self._has_gaps:
            used = groups.sum()
            is_row = (torch.arange(count, device=rows.device) < used).unsqueeze(1)
            # In forward and backward: the memory behind the rows, and its gradient, are undefined.
            rows = torch.where(is_row, rows, 0)
        out = functional.grouped_gemm(rows, weight, self._groups, layout=self._layout)
        if self._has_gaps:
            out = torch.where(is_row, out, 0)
            groups = torch.cat([groups, (count - used).view(1)])
            bias = None if bias is None else torch.cat([bias, bias.new_zeros(1, bias.shape[1])])
        if bias is None:
            return out
        # With output_size given, the host does not wait for the device to count the rows.
        return out + bias.repeat_interleave(groups, dim=0, output_size=count)
