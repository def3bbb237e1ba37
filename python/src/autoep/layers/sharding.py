"""Broadcasting the weights of rank 0, and sharding the experts over the ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from autoep.errors import ModelError
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


def start_from_rank_zero(model: nn.Module, device: torch.device) -> None:
    """Broadcasts the parameters and buffers of rank 0, in place; collective.

    Args:
        model: The model, on the CPU or on `device`.
        device: Where the tensors travel, one at a time.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        travelling = tensor.data.to(device)
        dist.broadcast(travelling, src=0)
        if travelling.device != tensor.device:
            tensor.data.copy_(travelling)


def shard_experts(table: ParameterTable, ep_mesh: DeviceMesh) -> None:
    """Replaces the experts' parameters by DTensors, of which each rank keeps its shard.

    The shards are on the mesh's device.

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


def move_rest(model: nn.Module, device: torch.device) -> None:
    """Moves the parameters and buffers that are not sharded to a device, in place.

    Call it after the experts were sharded: the whole model then need not fit on one GPU.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)


def _shard(whole: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    first, count = expert_range(whole.shape[0], mesh.size(), mesh.get_local_rank())
    own = whole.detach()[first : first + count].clone(memory_format=torch.contiguous_format)
    own = own.to(mesh.device_type)
    sharded = DTensor.from_local(
        own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
    )
    return nn.Parameter(sharded, requires_grad=whole.requires_grad)
