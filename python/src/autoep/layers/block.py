"""The forward of a whole block, for models whose blocks choose the experts themselves.

Shapes: T tokens, H hidden size, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autoep.errors import ModelError
from autoep.layers.choice import choose_experts
from autoep.layers.replaced_method import ReplacedMethod
from autoep.layers.selection_bias import selection_bias
from autoep.layers.spec import BlockRouter, MoELayer

ExpertsCall = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class BlockForward(ReplacedMethod):
    """Computes a block's forward, with the model's router and other experts.

    The router is called once, through its hooks.
    """

    def __init__(self, layer: MoELayer, routing: BlockRouter, experts: ExpertsCall) -> None:
        self._block = layer.block
        self._router = layer.router
        self._num_experts = layer.num_experts
        self._routing = routing
        self._experts = experts

    def __call__(self, hidden_states: torch.Tensor, *others: Any, **named: Any) -> Any:
        """Returns the block's output [..., H], with outputs of the router if the block returns any.

        Args:
            hidden_states: [..., H].
            *others: None, if the block's own forward takes more arguments.
            **named: None likewise.

        Raises:
            ModelError: One of them is not None.
        """
        if any(other is not None for other in (*others, *named.values())):
            raise ModelError(
                f"{type(self._block).__name__} was called with more than the tokens, and the use"
                " of the other arguments is not known. Set expert_parallel.enabled to false to"
                " train this model without expert parallelism."
            )
        routing = self._routing
        if self._block.training and routing.jitter:
            low, high = 1.0 - routing.jitter, 1.0 + routing.jitter
            hidden_states *= torch.empty_like(hidden_states).uniform_(low, high)
        x_TH = hidden_states.reshape(-1, hidden_states.shape[-1])
        said = router_outputs(self._router, x_TH if routing.flat else hidden_states)
        bias_E = self._selection_bias() if routing.biased else None
        logits_TE = said[routing.logits]
        topk_idx_TK, topk_weights_TK = choose(routing, logits_TE, bias_E, x_TH.dtype)
        y_TH = self._experts(x_TH, topk_idx_TK, topk_weights_TK)
        if routing.output_bias is not None:
            y_TH = y_TH + getattr(self._block, routing.output_bias)
        y = y_TH.view(hidden_states.shape)
        if routing.shared is not None:
            y = y + self._shared(hidden_states)
        return y if routing.returns is None else (y, said[routing.returns])

    def _selection_bias(self) -> torch.Tensor:
        bias = selection_bias(self._block, self._num_experts)
        return bias.detach().flatten().float()

    def _shared(self, hidden_states: torch.Tensor) -> torch.Tensor:
        shared = getattr(self._block, self._routing.shared)(hidden_states)
        if self._routing.shared_gate is None:
            return shared
        return (
            torch.sigmoid(getattr(self._block, self._routing.shared_gate)(hidden_states)) * shared
        )


def router_outputs(router: Callable[[torch.Tensor], Any], x: torch.Tensor) -> tuple[Any, ...]:
    """Returns a router's outputs as a tuple."""
    said = router(x)
    return said if isinstance(said, tuple) else (said,)


def choose(
    routing: BlockRouter, logits_TE: torch.Tensor, bias_E: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns topk_idx and topk_weights, [T, K] each, the latter in the dtype of the tokens."""
    if routing.score == "given":
        weights_TK, idx_TK = logits_TE.topk(routing.top_k)
        return idx_TK, weights_TK
    groups = {}
    if routing.num_groups > 1:
        groups = {
            "group_score": "max" if routing.score == "softmax" else "top2_sum",
            "num_groups": routing.num_groups,
            "topk_groups": routing.topk_groups,
        }
    routed = choose_experts(
        logits_TE,
        routing.top_k,
        score=routing.score,
        normalize=routing.normalize,
        scale=routing.scale,
        selection_bias=bias_E,
        **groups,
    )
    return routed.topk_idx, routed.topk_weights.to(dtype)
