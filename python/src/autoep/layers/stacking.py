"""Stacking experts that a model keeps apart into the parameters that are sharded.

transformers 4 and many custom models have one module per expert; DBRX keeps all experts in
two-dimensional weights. After `autoep.initialize` such a layer has the parameters of
transformers 5's experts: `gate_up_proj` [E, 2F, H] (`up_proj` [E, F, H] without a gate) and
`down_proj` [E, H, F], with `_bias` if there are biases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from autoep.errors import ModelError
from autoep.layers.spec import MoELayer, Pieces

Tensors = dict[str, torch.Tensor]

# The caller's parameters from which each stacked one was made.
Origins = dict[nn.Parameter, tuple[nn.Parameter, ...]]


class StackedExperts(nn.Module):
    """Experts in stacked parameters; `initialize` gives it the engine's forward."""

    def __init__(
        self, weights: Tensors, act_fn: Callable[[torch.Tensor], torch.Tensor], trained: bool
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight, requires_grad=trained))
        self.act_fn = act_fn


def check_separate(model: nn.Module, layers: list[MoELayer]) -> None:
    """Raises if experts that are to be stacked share a weight, which their stack would not.

    Raises:
        ModelError: Two experts, or an expert and another module, are tied.
    """
    owners: dict[nn.Parameter, list[str]] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append(f"{name}.{own}")
    seen: set[nn.Module] = set()
    for layer in layers:
        if layer.pieces is None:
            continue
        modules = list(layer.experts) if isinstance(layer.experts, nn.ModuleList) else []
        modules.append(layer.experts)
        tied = [owners[p] for p in layer.experts.parameters() if len(owners[p]) > 1]
        if tied or len(set(modules)) < len(modules) or seen & set(modules):
            which = " and ".join(tied[0]) if tied else "a module that occurs twice"
            raise ModelError(
                f"{layer.name}: experts are tied ({which}), but stacking gives each expert its own"
                " weights; untie them by giving them copies, or set expert_parallel.enabled to"
                " false"
            )
        seen |= set(modules)


def stack_experts(layers: list[MoELayer]) -> tuple[list[MoELayer], Origins]:
    """Stacks the experts of the layers that keep them apart.

    Args:
        layers: The MoE layers.

    Returns:
        The layers with stacked experts, and the origins of their new parameters.

    Raises:
        ModelError: Only some experts of a layer are frozen.
    """
    origins: Origins = {}
    return [_stack(layer, origins) for layer in layers], origins


def stacked_weights(experts: nn.Module, pieces: Pieces, num_experts: int) -> Tensors:
    """Returns the stacked weights of experts, under transformers 5's names."""
    first = "up_proj" if pieces.gate is None else "gate_up_proj"
    wide = list(dict.fromkeys(part for part in (pieces.gate, pieces.up) if part is not None))
    gathered = {first: wide, "down_proj": [pieces.down]}
    weights = {
        name: torch.cat([_gather(experts, p, "weight", pieces, num_experts) for p in parts], 1)
        for name, parts in gathered.items()
    }
    if pieces.rows:
        weights["down_proj"] = weights["down_proj"].transpose(1, 2)
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    if pieces.biases:
        for name, parts in gathered.items():
            weights[f"{name}_bias"] = torch.cat(
                [_gather(experts, p, "bias", pieces, num_experts) for p in parts], 1
            )
    return weights


def _gather(
    experts: nn.Module, part: str, kind: str, pieces: Pieces, num_experts: int
) -> torch.Tensor:
    """Returns one weight of all experts, [E, out, in], or bias, [E, out]."""
    if pieces.stacked:
        weight = experts.get_parameter(part).detach()
        return weight.transpose(1, 2) if pieces.transposed else weight
    if pieces.rows:
        weight = experts.get_parameter(part).detach()
        return weight.view(num_experts, -1, weight.shape[1])
    return torch.stack([e.get_submodule(part).get_parameter(kind).detach() for e in experts])


def _stack(layer: MoELayer, origins: Origins) -> MoELayer:
    if layer.spec.identity_experts:
        _cut_identity_experts(layer, origins)
    if layer.pieces is None:
        return layer
    separate = list(layer.experts.parameters())
    trained = {parameter.requires_grad for parameter in separate}
    if len(trained) > 1:
        raise ModelError(
            f"{layer.name}: some parameters of its experts are frozen and others not, but they"
            " are stacked into one tensor; freeze all or none of a layer's experts"
        )
    weights = stacked_weights(layer.experts, layer.pieces, layer.num_experts)
    stacked = StackedExperts(weights, layer.pieces.act_fn, trained.pop())
    owners = _owners(layer, stacked)
    for old in separate:
        origins[owners[id(old)]] = (*origins.get(owners[id(old)], ()), old)
        old.data = old.data.new_empty(0)
    for name, module in layer.block.named_children():
        if module is layer.experts:
            setattr(layer.block, name, stacked)
    return dataclasses.replace(layer, experts=stacked, pieces=None)


def _owners(layer: MoELayer, stacked: StackedExperts) -> dict[int, nn.Parameter]:
    """Returns the stacked parameter of each separate one, by id."""
    owners = {}
    for name, parameter in layer.experts.named_parameters():
        whole = layer.pieces.rows or layer.pieces.stacked
        part = name if whole else name.split(".", 1)[1].rpartition(".")[0]
        into = "down_proj" if part == layer.pieces.down else layer.spec.gate_up
        is_bias = not whole and name.endswith(".bias")
        owners[id(parameter)] = stacked.get_parameter(f"{into}_bias" if is_bias else into)
    return owners


def _cut_identity_experts(layer: MoELayer, origins: Origins) -> None:
    """Drops the weights stored for identity experts, which use none."""
    whole = layer.experts.get_parameter(layer.spec.gate_up)
    if whole.shape[0] > layer.num_experts:
        own = nn.Parameter(whole.detach()[: layer.num_experts].clone(), whole.requires_grad)
        origins[own] = (whole,)
        setattr(layer.experts, layer.spec.gate_up, own)
        whole.data = whole.data.new_empty(0)
