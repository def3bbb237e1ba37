"""The forward that replaces a layer's experts: the same call, computed by the engine.

Shapes: T tokens of this rank, H hidden size, K experts a token, E experts, e of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autoep.comm import Communicator
from autoep.detection import MoELayer
from autoep.experts_module import run_experts


class ExpertLoad:
    """Tokens per expert of each layer, counted over the micro-batches of a step.

    Attributes:
        counting: Whether forwards count; off in eval and while activations are recomputed.
        last: [layers, E] of the last whole step, of this rank's tokens.
    """

    def __init__(self, layers: list[MoELayer]) -> None:
        self.counting = False
        most = max((layer.num_experts for layer in layers), default=0)
        device = next((p.device for layer in layers for p in layer.experts.parameters()), None)
        self.last = torch.zeros(len(layers), most, dtype=torch.long, device=device)
        self._current = torch.zeros_like(self.last)

    def of(self, index: int, num_experts: int) -> torch.Tensor | None:
        """Where a forward of a layer adds the tokens of each expert, [E]; None to not count."""
        return self._current[index, :num_experts] if self.counting else None

    @contextmanager
    def counted(self, counting: bool) -> Iterator[None]:
        """Whether the forwards within count."""
        self.counting = counting
        try:
            yield
        finally:
            self.counting = False

    def end_step(self) -> None:
        """Keeps the counts as those of the last step, and begins anew."""
        self.last = self._current
        self._current = torch.zeros_like(self.last)


class ExpertsForward:
    """Stands in for the forward of one layer's experts."""

    def __init__(self, layer: MoELayer, index: int, comm: Communicator, load: ExpertLoad) -> None:
        self._layer = layer
        self._index = index
        self._comm = comm
        self._load = load

    def __call__(
        self, x: torch.Tensor, topk_idx_TK: torch.Tensor, topk_weights_TK: torch.Tensor
    ) -> torch.Tensor:
        """Sends the tokens to their experts and returns the weighted sums; collective.

        Args:
            x: [..., H], T tokens in all.
            topk_idx_TK: [T, K], each in [0, E).
            topk_weights_TK: [T, K].

        Returns:
            The shape of x.
        """
        layer = self._layer
        y_TH = run_experts(
            layer.experts,
            x.reshape(-1, layer.hidden_size),
            topk_idx_TK,
            topk_weights_TK,
            num_experts=layer.num_experts,
            comm=self._comm,
            spec=layer.spec,
            load=self._load.of(self._index, layer.num_experts),
        )
        return y_TH.view(x.shape)


def replace_experts_forward(layers: list[MoELayer], comm: Communicator) -> ExpertLoad:
    """Replaces the forward of the experts of each layer; the modules stay the model's own."""
    load = ExpertLoad(layers)
    for index, layer in enumerate(layers):
        layer.experts.forward = ExpertsForward(layer, index, comm, load)
    return load
