"""Starting from equal weights, and leaving each rank its own experts."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from autoep.errors import ModelError
from autoep.functional import expert_range
from autoep.layers.spec import MoELayer

Replacements = dict[nn.Parameter, nn.Parameter]


def check_model(model: nn.Module) -> torch.device:
    """Returns where the model is; raises unless it is there in whole, on the CPU or on one GPU."""
    first: torch.device | None = None
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, DTensor):
            raise ModelError(
                f"{name} is sharded already: give autoep.initialize a model that neither it nor"
                " another has distributed"
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
    """Gives every rank the parameters and buffers of rank 0, in place; collective.

    Args:
        model: The model, on the CPU or on `device`.
        device: Where the tensors travel, one at a time.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        travelling = tensor.data.to(device)
        dist.broadcast(travelling, src=0)
        if travelling.device != tensor.device:
            tensor.data.copy_(travelling)


def shard_experts(layers: list[MoELayer], ep_mesh: DeviceMesh) -> Replacements:
    """Replaces the experts' weights by DTensors of which each rank keeps its own part.

    The parts are on the mesh's device; the whole weights are freed.

    Args:
        layers: The MoE layers.
        ep_mesh: The ranks to shard over.

    Returns:
        The new parameter of each one replaced.
    """
    replaced: Replacements = {}
    for layer in layers:
        for name in layer.weight_names():
            whole = layer.experts.get_parameter(name)
            if whole not in replaced:  # two layers may be tied
                replaced[whole] = _shard(whole, ep_mesh)
                # The caller's optimizer or list may hold the parameter: free what it holds.
                whole.data = whole.data.new_empty(0)
            owner, _, attribute = name.rpartition(".")
            setattr(layer.experts.get_submodule(owner), attribute, replaced[whole])
    return replaced


def replace_parameters(model: nn.Module, replacements: Replacements) -> None:
    """Puts parameters in the places of others, wherever the model has them (they may be tied)."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter in replacements:
                setattr(module, name, replacements[parameter])


def _shard(whole: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    first, count = expert_range(whole.shape[0], mesh.size(), mesh.get_local_rank())
    own = whole.detach()[first : first + count].clone(memory_format=torch.contiguous_format)
    own = own.to(mesh.device_type)
    sharded = DTensor.from_local(
        own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
    )
    return nn.Parameter(sharded, requires_grad=whole.requires_grad)


def local(weight: nn.Parameter) -> torch.Tensor:
    """This rank's part of a weight; its gradient comes back as a part too."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
