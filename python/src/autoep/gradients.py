"""The gradients of a step: summed over micro-batches and ranks, measured, clipped.

The loss of a step is the mean over ranks of their losses, so every gradient is a sum over all
ranks divided by their number. DDP does so for the plain parameters. For the experts, the
all-to-all's backward has already summed over the ranks of the EP group.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from autoep.groups import ExpertGroups
from autoep.precision import Masters
from autoep.sharding import local


class Gradients:
    """The gradients of a model's trained parameters."""

    def __init__(
        self, model: nn.Module, masters: Masters, groups: ExpertGroups, world_size: int
    ) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._dense = [p for p in trained if not isinstance(p, DTensor)]
        self._experts = [p for p in trained if isinstance(p, DTensor)]
        self._masters = masters
        self._mesh = groups.mesh
        self._world_size = world_size

    def after_backward(self, boundary: bool) -> None:
        """Adds up what a backward left; at the end of an accumulation, over the ranks too."""
        if boundary and self._world_size > 1:
            self._drop_reduced()
        else:
            self._accumulate(self._dense)
        self._accumulate(self._experts)
        if boundary:
            self._reduce_experts()

    def global_norm(self) -> float:
        """Returns the norm over all parameters of the model, the same on every rank; collective.

        A plain parameter counts once, and every expert once.
        """
        dense = get_total_norm(self._reduced(self._dense)).item()
        experts = get_total_norm(self._reduced(self._experts)).double().square()
        if self._mesh is not None:
            dist.all_reduce(experts, group=self._mesh.get_group("ep"))
        return math.sqrt(dense**2 + experts.item())

    def clip(self, norm: float, limit: float) -> None:
        """Scales the gradients down to the norm `limit` if theirs, `norm`, is above it."""
        scale = limit / (norm + 1e-6)
        reduced = self._reduced(self._dense) + self._reduced(self._experts)
        if scale < 1 and reduced:
            torch._foreach_mul_(reduced, scale)

    def clear(self) -> None:
        """Frees the gradients."""
        for parameter in (*self._dense, *self._experts):
            parameter.grad = None
            self._masters.of(parameter).grad = None

    def _drop_reduced(self) -> None:
        """Frees the bfloat16 gradients whose average DDP's hook has left with the masters."""
        for parameter in self._dense:
            if self._masters.has(parameter):
                parameter.grad = None

    def _accumulate(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            self._masters.accumulate(parameter)

    def _reduce_experts(self) -> None:
        """Sums over the ranks that hold the same experts, and divides by the number of ranks."""
        if self._mesh is None:
            return
        group = self._mesh.get_group("edp")
        sums = self._reduced(self._experts)
        if dist.get_world_size(group) > 1:
            works = [dist.all_reduce(g, group=group, async_op=True) for g in sums if g.numel()]
            for work in works:
                work.wait()
        if sums:
            torch._foreach_div_(sums, self._world_size)

    def _reduced(self, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
        """This rank's parts of the gradients, where there are some."""
        owners = (self._masters.of(parameter) for parameter in parameters)
        return [local(owner.grad) for owner in owners if owner.grad is not None]
