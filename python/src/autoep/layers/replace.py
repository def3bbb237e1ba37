"""The forward that replaces a layer's experts: called in the same way, computed by the engine.

Shapes: T tokens of this rank, H hidden size, K experts per token, E experts, e of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from autoep.distributed.communicator import Communicator
from autoep.functional import ExpertsWeights, expert_range
from autoep.layers.block import BlockForward
from autoep.layers.call_styles import CALLS
from autoep.layers.experts import run_experts, weights_of
from autoep.layers.generation import GenerationSteps
from autoep.layers.lora import ExpertAdapters
from autoep.layers.replaced_method import ReplacedMethod
from autoep.layers.spec import MoELayer
from autoep.layers.token_masks import TokenMasks


class ExpertLoad:
    """Tokens per expert of each layer, counted over the micro-batches of a step.

    Attributes:
        counting: Whether forwards count; False in eval and while activations are recomputed.
            Padding is never counted.
        last: [layers, E], the counts of this rank's tokens in the last complete step.
    """

    def __init__(self, layers: list[MoELayer]) -> None:
        self.counting = False
        self._masks = TokenMasks()
        self._names = [layer.name for layer in layers]
        self._most = max((layer.num_experts for layer in layers), default=0)
        device = next((p.device for layer in layers for p in layer.experts.parameters()), None)
        # The last column counts choices that are no expert with weights.
        self._current = torch.zeros(len(layers), self._most + 1, dtype=torch.long, device=device)
        self.last = self._current[:, :-1].clone()

    def add(self, index: int, topk_idx_TK: torch.Tensor) -> None:
        """Counts the choices of one layer in one micro-batch."""
        if self.counting:
            chosen_N = topk_idx_TK.flatten().long()
            is_one = (chosen_N >= 0) & (chosen_N < self._most)
            is_real_T = self._masks.real(self._names[index], len(topk_idx_TK))
            if is_real_T is not None:
                is_real_N = is_real_T.repeat_interleave(topk_idx_TK.shape[1])
                is_one &= is_real_N.to(is_one.device)
            column_N = torch.where(is_one, chosen_N, self._most)
            self._current[index].scatter_add_(0, column_N, torch.ones_like(column_N))

    @contextmanager
    def counted(self, masks: TokenMasks) -> Iterator[None]:
        """Makes the forwards in the context count the tokens that the masks mark as real."""
        self.counting, self._masks = True, masks
        try:
            yield
        finally:
            self.counting, self._masks = False, TokenMasks()

    def end_step(self) -> None:
        """Stores the counts as those of the last step, and restarts at zero."""
        self.last = self._current[:, :-1]
        self.forget()

    def forget(self) -> None:
        """Sets the counts of the step under way to zero."""
        self._current = torch.zeros_like(self._current)


class ExpertsForward(ReplacedMethod):
    """Replaces the forward of one layer's experts."""

    def __init__(
        self,
        layer: MoELayer,
        adapters: ExpertAdapters | None,
        index: int,
        comm: Communicator,
        load: ExpertLoad,
        steps: GenerationSteps | None,
    ) -> None:
        """Prepares the forward.

        Args:
            layer: The layer.
            adapters: The adapters to add to its weights, or None.
            index: The layer's index.
            comm: The ranks that share the experts.
            load: Counts the tokens.
            steps: Records each exchange; None for a single rank.
        """
        self._layer = layer
        self._adapters = adapters
        self._index = index
        self._comm = comm
        self._load = load
        self._steps = steps
        self._receive = CALLS.get(layer.call, CALLS["routed"]).receive
        self._first, _ = expert_range(layer.num_experts, comm.size, comm.rank)

    def __call__(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """Sends the tokens to their experts and returns the weighted sums; collective.

        Args:
            *arguments: The tokens [..., H], T in all, and their choices, in the block's form.
            **named: Further ones of these, by name.

        Returns:
            [..., H].
        """
        x, topk_idx_TK, topk_weights_TK = self._receive(*arguments, **named)
        if self._steps is not None:
            self._steps.note(self._compute, x, topk_idx_TK, topk_weights_TK)
        y = self._compute(x, topk_idx_TK, topk_weights_TK)
        self._load.add(self._index, topk_idx_TK)
        return y

    def _compute(
        self, x: torch.Tensor, topk_idx_TK: torch.Tensor, topk_weights_TK: torch.Tensor
    ) -> torch.Tensor:
        """Computes the experts of routed tokens; collective."""
        layer = self._layer
        y_TH = run_experts(
            layer.experts,
            x.reshape(-1, layer.hidden_size),
            topk_idx_TK,
            topk_weights_TK,
            num_experts=layer.num_experts,
            comm=self._comm,
            spec=layer.spec,
            weights=self._weights(),
        )
        return y_TH.view(x.shape)

    def _weights(self) -> ExpertsWeights:
        """Returns the weights of this rank's experts, with the deltas of adapters."""
        layer = self._layer
        if self._adapters is None:
            return weights_of(layer.experts, layer.spec)
        self._adapters.unmerge_disabled()
        weights = weights_of(layer.experts, layer.spec)
        return self._adapters.add_to(weights, layer.spec, self._first)


def replace_experts_forward(
    layers: list[MoELayer],
    adapters: list[ExpertAdapters],
    comm: Communicator,
    steps: GenerationSteps | None = None,
) -> ExpertLoad:
    """Replaces the forward of each layer's experts, or of their caller, by the engine's.

    Args:
        layers: The layers; their weights are sharded already.
        adapters: The adapters of each layer.
        comm: The ranks that share the experts.
        steps: Records each exchange; None for a single rank.
    """
    load = ExpertLoad(layers)
    for index, (layer, around) in enumerate(zip(layers, adapters, strict=True)):
        forward = ExpertsForward(layer, around, index, comm, load, steps)
        around.merge_local_shards()
        if layer.call == "block":
            layer.block.forward = BlockForward(layer, layer.routing, forward)
        elif layer.call == "moe":
            layer.block.moe = forward
        else:
            # PEFT may remove the adapters later, and then the block calls the experts directly.
            layer.experts.forward = ExpertsForward(layer, None, index, comm, load, steps)
            around.called(layer.experts).forward = forward
    return load
