"""The forward that replaces a layer's experts: the same call, computed by the engine.

Shapes: T tokens of this rank, H hidden size, K experts a token, E experts, e of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoep import functional
from autoep.comm import Communicator
from autoep.detection import MoELayer, MoELayerSpec
from autoep.detection.spec import own_activation
from autoep.sharding import local
from autoep.stepwise import ExpertsWeights, experts_in_steps


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
        y_TH, tokens_per_expert = run_experts(
            layer.experts,
            layer.spec,
            layer.num_experts,
            x.reshape(-1, layer.hidden_size),
            topk_idx_TK,
            topk_weights_TK,
            self._comm,
        )
        self._load.add(self._index, tokens_per_expert)
        return y_TH.view(x.shape)


def run_experts(
    experts: nn.Module,
    spec: MoELayerSpec,
    num_experts: int,
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    comm: Communicator,
) -> tuple[torch.Tensor, list[int]]:
    """Computes what a module of experts does, with its weights where they are; collective.

    Args:
        experts: The module that has the weights: whole, or this rank's part of them.
        spec: What it computes.
        num_experts: E, over all ranks.
        x_TH: [T, H].
        topk_idx_TK: [T, K], each in [0, E).
        topk_weights_TK: [T, K].
        comm: The ranks.

    Returns:
        [T, H], and how many copies this rank routed to each expert, [E].
    """
    weights = ExpertsWeights(
        *(
            None if name is None else local(experts.get_parameter(name))
            for name in (spec.gate_up, spec.gate_up_bias, spec.down, spec.down_bias)
        )
    )
    if not spec.fused():
        return experts_in_steps(
            x_TH,
            topk_idx_TK,
            topk_weights_TK,
            weights,
            num_experts=num_experts,
            comm=comm,
            layout=spec.layout,
            activation=own_activation(experts, spec.gate),
            post_norm=None if spec.post_norm is None else experts.get_submodule(spec.post_norm),
        )
    plan = functional.experts_plan(
        topk_idx_TK,
        num_experts=num_experts,
        hidden_size=x_TH.shape[1],
        ffn_size=weights.down.shape[2 if spec.layout == "out_in" else 1],
        dtype=x_TH.dtype,
        comm=comm,
        activation=spec.activation,
        gate=spec.gate,
        layout=spec.layout,
        score_apply=spec.score_apply,
        swiglu_alpha=spec.swiglu_alpha,
        swiglu_limit=spec.swiglu_limit,
    )
    y_TH = functional.experts(
        x_TH,
        None,
        topk_weights_TK,
        weights.gate_up,
        weights.down,
        gate_up_bias=weights.gate_up_bias,
        down_bias=weights.down_bias,
        plan=plan,
    )
    return y_TH, plan.tokens_per_expert_sent()


def replace_experts_forward(layers: list[MoELayer], comm: Communicator) -> ExpertLoad:
    """Replaces the forward of the experts of each layer; the modules stay the model's own."""
    load = ExpertLoad(layers)
    for index, layer in enumerate(layers):
        layer.experts.forward = ExpertsForward(layer, index, comm, load)
    return load
