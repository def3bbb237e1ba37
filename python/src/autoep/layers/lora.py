"""LoRA on experts, as PEFT's `target_parameters` applies it.

PEFT wraps the experts in one `ParamWrapper` per weight; the block calls the outermost. The
adapters' factors are small and replicated on every rank, with PEFT's names and layouts. A rank
computes with the slice for its experts, so that the mean of the gradients over ranks, which all
replicated parameters get, is correct.

Shapes: E experts, e of this rank, r the rank of an adapter, O and I the other sizes of a weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from autoep.errors import ModelError
from autoep.functional import ExpertsWeights, expert_range
from autoep.layers.replaced_method import ReplacedMethod
from autoep.layers.spec import MoELayer, MoELayerSpec
from autoep.layers.wrappers import WRAPPED, without_wrappers


class ExpertAdapters:
    """The adapters around the experts of one layer; there may be none."""

    def __init__(self, layer: MoELayer) -> None:
        """Finds the adapters.

        Raises:
            ModelError: The experts have another kind of wrapper, or a merged adapter.
        """
        chain = _from_the_block(layer)
        self._outermost = chain[0]
        self._of_weight = {wrapper.parameter_name: wrapper for wrapper in chain[:-1]}

    def called(self, experts: nn.Module) -> nn.Module:
        """Returns the module that the block calls for its experts: a wrapper, if there is one."""
        return self._outermost if self._of_weight else experts

    def merge_local_shards(self) -> None:
        """Makes merging and unmerging change this rank's shard of the weights; call after sharding.

        PEFT adds an adapter's delta for all experts to a weight. Without this it would fail in the
        middle of a model, at the first weight that is sharded.
        """
        for wrapper in self._of_weight.values():
            if isinstance(wrapper.get_param(), DTensor):
                wrapper.get_delta_weight = _DeltaOfPart(wrapper)
                wrapper.merge = _MergeOfPart(wrapper)

    def unmerge_disabled(self) -> None:
        """Unmerges merged adapters that are disabled, as PEFT's forward does."""
        for wrapper in self._of_weight.values():
            if wrapper.disable_adapters and wrapper.merged:
                wrapper.unmerge()

    def add_to(self, weights: ExpertsWeights, spec: MoELayerSpec, first: int) -> ExpertsWeights:
        """Returns the weights plus the deltas of their active adapters that are not merged.

        Args:
            weights: This rank's shards.
            spec: The names of the weights.
            first: This rank's first expert.
        """
        return weights._replace(
            gate_up=self._add(weights.gate_up, spec.gate_up, first),
            down=self._add(weights.down, spec.down, first),
        )

    def _add(self, weight: torch.Tensor, name: str, first: int) -> torch.Tensor:
        wrapper = self._of_weight.get(name)
        if wrapper is None or wrapper.disable_adapters or wrapper.merged:
            return weight
        own = slice(first, first + weight.shape[0])
        for adapter in wrapper.active_adapters:
            if adapter in wrapper.lora_A:
                left_EOr, right_ErI, scaling = wrapper.get_delta_factors(adapter)
                weight = torch.baddbmm(weight, left_EOr[own], right_ErI[own], alpha=scaling)
        return weight


class _DeltaOfPart(ReplacedMethod):
    """Replaces a wrapper's `get_delta_weight`: computes this rank's experts only."""

    def __init__(self, wrapper: nn.Module) -> None:
        self._wrapper = wrapper

    def __call__(self, adapter: str, *_: Any, **__: Any) -> DTensor:
        """Returns an adapter's delta of its weight, sharded like the weight."""
        left_EOr, right_ErI, scaling = self._wrapper.get_delta_factors(adapter)
        weight = self._wrapper.get_param()
        mesh = weight.device_mesh
        first, count = expert_range(weight.shape[0], mesh.size(), mesh.get_local_rank())
        own = slice(first, first + count)
        return DTensor.from_local(
            torch.bmm(left_EOr[own], right_ErI[own]).mul_(scaling),
            mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )


class _MergeOfPart(ReplacedMethod):
    """Replaces a wrapper's `merge`, whose safe mode assigns new data to a parameter.

    A sharded parameter would keep its old shard.
    """

    def __init__(self, wrapper: nn.Module) -> None:
        self._wrapper = wrapper

    def __call__(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merges in place; collective if `safe_merge`.

        Raises:
            ValueError: A safe merge would give NaN or infinity on some rank; nothing is changed.
        """
        wrapper = self._wrapper
        if safe_merge:
            merged = wrapper.get_param().detach()
            for adapter in adapter_names or wrapper.active_adapters:
                if adapter in wrapper.lora_A and adapter not in wrapper.merged_adapters:
                    merged = merged + wrapper.get_delta_weight(adapter)
            if not torch.isfinite(merged).all().full_tensor():
                raise ValueError(
                    f"{wrapper.parameter_name}: with its adapters merged it has NaN or infinity on"
                    " some rank; an adapter seems to be broken"
                )
        type(wrapper).merge(wrapper, adapter_names=adapter_names)


def _from_the_block(layer: MoELayer) -> list[nn.Module]:
    """Returns the modules from the one that the block calls down to the experts themselves."""
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
            f"{layer.name}: a {kind} wraps its experts; only LoRA through `target_parameters`, of"
            " PEFT 0.21 or newer, is supported"
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
