"""The forward that replaces a router's if the engine computes the same."""

from __future__ import annotations

import torch
from torch import nn

from autoep.layers.replaced_method import ReplacedMethod
from autoep.layers.spec import MoELayer
from autoep.routers.maths import RouterMaths, find_router_maths


class FusedForward(ReplacedMethod):
    """Replaces the forward of one router: its linear map, then the engine's routing.

    The router remains the model's own instance, with its weights, hooks, arguments and
    results.
    """

    def __init__(self, router: nn.Module, maths: RouterMaths) -> None:
        self._router = router
        self._maths = maths
        self._own_forward = router.forward

    def __call__(
        self, hidden_states: torch.Tensor, selection_bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns (logits [T, E], topk_weights [T, K], topk_idx [T, K]), as the router does.

        Args:
            hidden_states: [..., H].
            selection_bias: [E], if the router is called with one.
        """
        if torch.is_autocast_enabled(hidden_states.device.type):  # the router rounds differently
            given = () if selection_bias is None else (selection_bias,)
            return self._own_forward(hidden_states, *given)
        logits, weights, idx = self._maths.route(self._router, hidden_states, selection_bias)
        return logits, weights, idx


def fuse_routers(layers: list[MoELayer]) -> None:
    """Replaces the forward of each router whose maths the engine has; others are unchanged."""
    for layer in layers:
        if layer.router is None:
            continue
        dtype = next(layer.experts.parameters()).dtype
        maths = find_router_maths(layer.router, layer.num_experts, dtype)
        if maths is not None:
            layer.router.forward = FusedForward(layer.router, maths)
