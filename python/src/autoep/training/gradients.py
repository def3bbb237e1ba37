"""The gradients of a step: summed over micro-batches and ranks, measured, clipped.

The loss of a step is the mean over ranks of their losses, so every gradient is a sum over all
ranks divided by their number. For the experts, the all-to-all's backward has already summed over
the ranks of the EP group.

The sums over ranks are made once, when a step ends, from whatever the backwards have left. DDP
would begin them in the last backward, and counts on a forward of its own before it: a model called
directly, or two forwards before their backwards, would go unsummed without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from autoep.distributed.groups import ExpertGroups
from autoep.errors import ModelError
from autoep.layers.sharding import local
from autoep.training.precision import Masters

# What is sent at a time, as DDP's buckets are.
_BUCKET_BYTES = 25 << 20


class Gradients:
    """The gradients of a model's trained parameters."""

    def __init__(
        self, model: nn.Module, masters: Masters, groups: ExpertGroups, world_size: int
    ) -> None:
        self._model = model
        self._trained = _trained(model)
        self._dense = [p for p in self._trained if not isinstance(p, DTensor)]
        self._experts = [p for p in self._trained if isinstance(p, DTensor)]
        self._masters = masters
        self._mesh = groups.mesh
        self._world_size = world_size

    def accumulate(self) -> None:
        """Adds what a backward left to the float32 sums of a bf16 run."""
        for parameter in self._trained:
            self._masters.accumulate(parameter)

    def reduce(self) -> None:
        """Averages the gradients over the ranks; collective.

        Raises:
            ModelError: Parameters were frozen or unfrozen since `autoep.initialize`.
        """
        self._check_trained()
        if self._world_size == 1:
            return
        self._fill_missing()
        self._average_dense()
        self._sum_experts()

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

    def _check_trained(self) -> None:
        now = _trained(self._model)
        if len(now) != len(self._trained) or any(
            a is not b for a, b in zip(now, self._trained, strict=True)
        ):
            raise ModelError(
                f"the model had {len(self._trained)} trained parameters at autoep.initialize, and"
                f" now has {len(now)} or others: freeze and unfreeze parameters before it"
            )

    def _fill_missing(self) -> None:
        """Gives zeros to a parameter that only other ranks have used."""
        owners = [self._masters.of(parameter) for parameter in self._trained]
        used = torch.tensor([owner.grad is not None for owner in owners], dtype=torch.uint8)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        for owner, by_someone in zip(owners, used.tolist(), strict=True):
            if by_someone and owner.grad is None:
                owner.grad = torch.zeros_like(owner)

    def _average_dense(self) -> None:
        for bucket in _buckets(self._reduced(self._dense)):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat.div_(self._world_size))
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def _sum_experts(self) -> None:
        """Sums over the ranks that hold the same experts, and divides by the number of ranks."""
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


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _buckets(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Parts gradients, in order, into runs of one dtype and of about `_BUCKET_BYTES`."""
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or size + gradient.nbytes > _BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
