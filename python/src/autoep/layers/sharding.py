"""Broadcasting the weights of rank 0, and sharding the experts over the ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from autoep.errors import ModelError, UnsupportedError
from autoep.functional import expert_range
from autoep.layers.parameters import ParameterTable


def check_model(model: nn.Module) -> torch.device:
    """Returns the model's device; raises unless the whole model is on the CPU or on one GPU."""
    first: torch.device | None = None
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, DTensor):
            raise ModelError(
                f"{name} is sharded already: pass a model that is not distributed yet to"
                " autoep.initialize"
            )
        first = first or tensor.device
        if tensor.device.type not in ("cpu", "cuda") or tensor.device != first:
            raise ModelError(
                f"{name} is on the device {tensor.device}, and the model's first tensor on {first};"
                " the engine computes on the CPU or on one GPU. Move the whole model there before"
                " autoep.initialize, with its weights loaded."
            )
    return first or torch.device("cpu")


def check_ranks(device: torch.device, world_size: int) -> None:
    """Raises if several ranks are to train a model on a GPU."""
    if device.type == "cuda" and world_size > 1:
        raise UnsupportedError(
            f"the model is on {device} and there are {world_size} ranks, but training on several"
            " GPUs is not in this version yet. Start one process, or leave the model on the CPU."
        )


def start_from_rank_zero(model: nn.Module) -> None:
    """Broadcasts the parameters and buffers of rank 0, in place; collective."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, src=0)


def shard_experts(table: ParameterTable, ep_mesh: DeviceMesh) -> None:
    """Replaces the experts' parameters by DTensors, of which each rank keeps its shard.

    Args:
        table: The model's parameters; the memory of the unsharded ones is freed.
        ep_mesh: The ranks to shard over.
    """
    for row in table:
        if row.is_expert:
            whole = row.computing
            table.replace(row, _shard(whole, ep_mesh))
            # The caller's optimizer or list may hold the parameter: free its memory.
            whole.data = whole.data.new_empty(0)


def _shard(whole: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    first, count = expert_range(whole.shape[0], mesh.size(), mesh.get_local_rank())
    own = whole.detach()[first : first + count].clone(memory_format=torch.contiguous_format)
    sharded = DTensor.from_local(
        own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
    )
    return nn.Parameter(sharded, requires_grad=whole.requires_grad)
