"""LoRA on experts, as PEFT's `target_parameters` puts it around them.

PEFT wraps the experts in one `ParamWrapper` for each weight; the block calls the outermost. Its
factors are small and every rank has them whole, in PEFT's names and layouts: a rank computes with
the part of its experts, and the mean of the gradients over ranks, which all replicated parameters
get, is then the right one.

Shapes: E experts, e of this rank, r the rank of an adapter, O and I the other sizes of a weight.
"""

from __future__ import annotations

import torch
from torch import nn

from autoep.errors import ModelError
from autoep.functional import ExpertsWeights
from autoep.layers.spec import MoELayer, MoELayerSpec
from autoep.layers.wrappers import WRAPPED, without_wrappers


class ExpertAdapters:
    """The adapters around the experts of one layer; there may be none."""

    def __init__(self, layer: MoELayer) -> None:
        """Finds them.

        Raises:
            ModelError: There is something else around the experts, or a merged adapter.
        """
        chain = _from_the_block(layer)
        self._outermost = chain[0]
        self._of_weight = {wrapper.parameter_name: wrapper for wrapper in chain[:-1]}

    def called(self, experts: nn.Module) -> nn.Module:
        """The module that the block calls for its experts: those, or what is around them."""
        return self._outermost if self._of_weight else experts

    def add_to(self, weights: ExpertsWeights, spec: MoELayerSpec, first: int) -> ExpertsWeights:
        """Returns the weights with what their active adapters add.

        Args:
            weights: This rank's parts.
            spec: The names of the weights.
            first: This rank's first expert.
        """
        return weights._replace(
            gate_up=self._add(weights.gate_up, spec.gate_up, first),
            down=self._add(weights.down, spec.down, first),
        )

    def _add(self, weight: torch.Tensor, name: str, first: int) -> torch.Tensor:
        wrapper = self._of_weight.get(name)
        if wrapper is None or wrapper.disable_adapters:
            return weight
        own = slice(first, first + weight.shape[0])
        for adapter in wrapper.active_adapters:
            if adapter in wrapper.lora_A:
                left_EOr, right_ErI, scaling = wrapper.get_delta_factors(adapter)
                weight = torch.baddbmm(weight, left_EOr[own], right_ErI[own], alpha=scaling)
        return weight


def _from_the_block(layer: MoELayer) -> list[nn.Module]:
    """The modules from the one that the block calls to the experts themselves."""
    inside = {module: name for name, module in layer.block.named_modules()}
    name = inside[layer.experts]
    chain = [layer.experts]
    while name != without_wrappers(name):
        name = name.removesuffix(f".{WRAPPED}")
        chain.insert(0, layer.block.get_submodule(name))
    for wrapper in chain[:-1]:
        _check(layer, wrapper)
    return chain


def _check(layer: MoELayer, wrapper: nn.Module) -> None:
    kind = type(wrapper).__name__
    if not hasattr(wrapper, "get_delta_factors") or not hasattr(wrapper, "parameter_name"):
        raise ModelError(
            f"{layer.name}: a {kind} is around its experts; supported there is LoRA through"
            " `target_parameters`, of PEFT 0.21 or newer"
        )
    if wrapper.parameter_name not in (layer.spec.gate_up, layer.spec.down):
        raise ModelError(
            f"{layer.name}: LoRA targets the parameter {wrapper.parameter_name!r} of its experts;"
            f" supported: {layer.spec.gate_up!r} and {layer.spec.down!r}"
        )
    if wrapper.num_experts == 1:
        raise ModelError(f"{layer.name}: LoRA on a single expert is not supported")
    if wrapper.merged:
        raise ModelError(
            f"{layer.name}: an adapter is merged into its experts. Unmerge it before"
            " autoep.initialize, or take model.merge_and_unload() to train without it."
        )
