"""The gradients of a step: accumulation over micro-batches, reduction over ranks, norm, clipping.

The loss of a step is the mean over ranks of their losses, so every gradient is a sum over all
ranks divided by their number. For the experts, the all-to-all's backward has already summed over
the ranks of the EP group.

Gradients are reduced over ranks once, when a step ends, whatever backward passes made them. DDP
would start during the last backward, and relies on its own forward before it: for a model that is
called directly, or with two forwards before their backwards, it would silently skip the reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import get_total_norm

from autoep.distributed.groups import ExpertGroups
from autoep.errors import ModelError
from autoep.layers.parameters import ParameterTable, local_shard

# Bytes per all-reduce of dense gradients, the size of DDP's buckets.
_BUCKET_BYTES = 25 << 20


class Gradients:
    """The gradients of a model's trained parameters."""

    def __init__(
        self, model: nn.Module, table: ParameterTable, groups: ExpertGroups, world_size: int
    ) -> None:
        self._model = model
        self._trained = [row for row in table if row.computing.requires_grad]
        self._mesh = groups.mesh
        self._world_size = world_size

    @torch.no_grad()
    def accumulate(self) -> None:
        """Adds the gradients of a backward to the float32 sums of a bf16 run, and frees them."""
        for row in self._trained:
            gradient = row.computing.grad
            if gradient is None or row.master is row.computing:
                continue
            if row.master.grad is None:
                row.master.grad = gradient.float()
            else:
                local_shard(row.master.grad).add_(local_shard(gradient))
            row.computing.grad = None

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
        """Returns the norm over all gradients of the model, the same on every rank; collective.

        Dense parameters and every expert count once, though several ranks may hold them.
        """
        dense = get_total_norm(self._sums(experts=False)).item()
        experts = get_total_norm(self._sums(experts=True)).double().square()
        if self._mesh is not None:
            dist.all_reduce(experts, group=self._mesh.get_group("ep"))
        return math.sqrt(dense**2 + experts.item())

    def clip(self, norm: float, limit: float) -> None:
        """Scales the gradients to the norm `limit` if their norm, `norm`, is larger."""
        scale = limit / (norm + 1e-6)
        gradients = self._sums(experts=False) + self._sums(experts=True)
        if scale < 1 and gradients:
            torch._foreach_mul_(gradients, scale)

    def clear(self) -> None:
        """Frees the gradients."""
        for row in self._trained:
            row.computing.grad = row.master.grad = None

    def _check_trained(self) -> None:
        now = {p for p in self._model.parameters() if p.requires_grad}
        if now != {row.computing for row in self._trained}:
            raise ModelError(
                f"the model had {len(self._trained)} trained parameters at autoep.initialize, and"
                f" now has {len(now)} or others: freeze and unfreeze parameters before it"
            )

    def _fill_missing(self) -> None:
        """Allocates a gradient of zeros for each parameter that only other ranks have used."""
        masters = [row.master for row in self._trained]
        used = torch.tensor([master.grad is not None for master in masters], dtype=torch.uint8)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        for master, used_somewhere in zip(masters, used.tolist(), strict=True):
            if used_somewhere and master.grad is None:
                master.grad = torch.zeros_like(master)

    def _average_dense(self) -> None:
        for bucket in _buckets(self._sums(experts=False)):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat.div_(self._world_size))
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def _sum_experts(self) -> None:
        """Sums over the ranks that hold the same experts, and divides by the number of ranks."""
        group = self._mesh.get_group("edp")
        sums = self._sums(experts=True)
        if dist.get_world_size(group) > 1:
            works = [dist.all_reduce(g, group=group, async_op=True) for g in sums if g.numel()]
            for work in works:
                work.wait()
        if sums:
            torch._foreach_div_(sums, self._world_size)

    def _sums(self, *, experts: bool) -> list[torch.Tensor]:
        """Returns this rank's parts of the gradients of experts, or of all other parameters."""
        masters = (row.master for row in self._trained if row.is_expert == experts)
        return [local_shard(master.grad) for master in masters if master.grad is not None]


def _buckets(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Splits gradients, in order, into buckets of one dtype and about `_BUCKET_BYTES`."""
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
