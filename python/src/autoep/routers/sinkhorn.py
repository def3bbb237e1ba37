"""`"router": "sinkhorn"`: the model's routers choose by balanced assignment in training."""

from __future__ import annotations

import torch
from torch import nn

from autoep.errors import ModelError
from autoep.layers.choice import choose_experts
from autoep.layers.replaced_method import ReplacedMethod
from autoep.layers.spec import MoELayer


class SinkhornForward(ReplacedMethod):
    """Replaces the forward of one router: its logits, then Sinkhorn routing of them.

    The router remains the model's own instance, with its weights, its hooks and its results.
    The weights are those of Sinkhorn routing, in training and in eval: the model's
    renormalisation and scale are not applied.
    """

    def __init__(self, router: nn.Module) -> None:
        self._router = router
        self._own_forward = router.forward

    def __call__(
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns (logits [T, E], topk_weights [T, K], topk_idx [T, K]), as the router does."""
        logits, own_weights, own_idx = self._own_forward(hidden_states)
        routing = choose_experts(
            logits, own_idx.shape[-1], score="sinkhorn", training=self._router.training
        )
        return (
            logits,
            routing.topk_weights.to(own_weights.dtype),
            routing.topk_idx.to(own_idx.dtype),
        )


def check_routers(layers: list[MoELayer]) -> None:
    """Raises if a layer chooses its experts without a router that could be replaced.

    Raises:
        ModelError: There is such a layer.
    """
    for layer in layers:
        if layer.router is None or layer.call != "routed" or layer.pieces is not None:
            raise ModelError(
                f'config: expert_parallel.router: "sinkhorn" replaces a router, but {layer.name}'
                " chooses its experts without one; remove the key"
            )


def balance_routers(layers: list[MoELayer]) -> None:
    """Makes the routers of all layers use Sinkhorn's normalisation."""
    for layer in layers:
        layer.router.forward = SinkhornForward(layer.router)
