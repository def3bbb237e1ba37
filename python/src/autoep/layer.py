"""The forward that replaces a layer's experts: the same call, computed by the engine.

Shapes: T tokens of this rank, H hidden size, K experts a token, E experts, e of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autoep import functional
from autoep.comm import Communicator
from autoep.detect import MoELayer
from autoep.sharding import local


class ExpertLoad:
    """Tokens per expert of each layer, counted over the micro-batches of a step.

    Attributes:
        counting: Whether forwards count; off in eval and while activations are recomputed.
        last: [layers, E] of the last whole step, of this rank's tokens.
    """

    def __init__(self, layers: list[MoELayer]) -> None:
        self.counting = False
        most = max((layer.num_experts for layer in layers), default=0)
        self.last = torch.zeros(len(layers), most, dtype=torch.long)
        self._current = torch.zeros_like(self.last)

    def add(self, index: int, tokens_per_expert: list[int]) -> None:
        """Counts the choices of one layer, [E], for one micro-batch."""
        if self.counting:
            self._current[index, : len(tokens_per_expert)] += torch.tensor(tokens_per_expert)

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
        self, x_TH: torch.Tensor, topk_idx_TK: torch.Tensor, topk_weights_TK: torch.Tensor
    ) -> torch.Tensor:
        """Sends the tokens to their experts and returns the weighted sums; collective.

        Args:
            x_TH: [T, H].
            topk_idx_TK: [T, K], each in [0, E).
            topk_weights_TK: [T, K].

        Returns:
            [T, H].
        """
        layer = self._layer
        plan = functional.experts_plan(
            topk_idx_TK,
            num_experts=layer.num_experts,
            hidden_size=layer.hidden_size,
            ffn_size=layer.ffn_size,
            dtype=x_TH.dtype,
            comm=self._comm,
            activation=layer.activation,
        )
        self._load.add(self._index, plan.tokens_per_expert_sent())
        gate_up, down = (local(getattr(layer.experts, name)) for name in layer.weight_names())
        return functional.experts(x_TH, None, topk_weights_TK, gate_up, down, plan=plan)


def replace_experts_forward(layers: list[MoELayer], comm: Communicator) -> ExpertLoad:
    """Replaces the forward of the experts of each layer; the modules stay the model's own."""
    load = ExpertLoad(layers)
    for index, layer in enumerate(layers):
        layer.experts.forward = ExpertsForward(layer, index, comm, load)
    return load
