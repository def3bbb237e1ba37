"""Finding a model's MoE layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator

from torch import nn

from autoep.detection.conventions import family_of, follows_convention, spec_by_convention
from autoep.detection.exclusions import REFUSED_BLOCKS, WHOLE_BLOCKS
from autoep.detection.unmarked import describe_unmarked
from autoep.errors import ModelError
from autoep.layers.spec import MoELayer, sizes_of
from autoep.layers.wrappers import WRAPPED, without_wrappers

_ROUTERS = ("gate", "router")

_PLAIN = (bool, int, float, str, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Attributes that differ between modules with the same computation.
_POSITION_ATTRIBUTES = {"layer_idx", "training", *vars(nn.Module())}


def find_moe_layers(model: nn.Module, preset: str | None = None) -> list[MoELayer]:
    """Finds the MoE layers of a model, in the order of its modules.

    Args:
        model: A model of transformers, or a custom one; its weights are not read.
        preset: The family to look for; None for any.

    Raises:
        ModelError: The model has no MoE layer, or one that the engine cannot replace.
    """
    found = [layer for layer in _search(model) if layer is not None]
    layers = [layer for layer in found if preset in (None, layer.spec.family)]
    if not layers:
        raise _no_layers(model, preset, found)
    return layers


def _search(model: nn.Module) -> Iterator[MoELayer | None]:
    family = family_of(model) or type(model).__name__
    known: dict[Hashable, MoELayer | None] = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in REFUSED_BLOCKS:
            raise ModelError(
                f"{name}: a {kind} cannot be spread over ranks: {REFUSED_BLOCKS[kind]}. Set"
                " expert_parallel.enabled to false to train it without expert parallelism."
            )
        if _is_around_unmarked_experts(name, module):
            raise ModelError(
                f"{name}: PEFT's {type(module).__name__} wraps these experts, which do not follow"
                " transformers' convention (`use_experts_implementation`); LoRA on experts needs"
                " it. Leave them out of `target_parameters`."
            )
        if follows_convention(module):
            layer = _describe(model, name, module)
        elif follows_convention(getattr(module, "experts", None)) or kind in WHOLE_BLOCKS:
            continue
        else:
            layer = _describe_like(known, name, module)
        if layer is not None and not layer.spec.family:
            spec = dataclasses.replace(layer.spec, family=family)
            layer = dataclasses.replace(layer, spec=spec)
        yield layer


def _is_around_unmarked_experts(name: str, module: nn.Module) -> bool:
    if not name.endswith("experts") or not type(module).__module__.startswith("peft."):
        return False
    while (inner := getattr(module, WRAPPED, None)) is not None:
        module = inner
    return not follows_convention(module)


def _describe_like(
    known: dict[Hashable, MoELayer | None], name: str, block: nn.Module
) -> MoELayer | None:
    """Describes a block, or copies the description of a known block of the same make."""
    make = _make_of(block)
    if make not in known:
        known[make] = describe_unmarked(name, block)
        return known[make]
    like = known[make]
    if like is None:
        return None
    paths = {part: path for path, part in like.block.named_modules()}
    return dataclasses.replace(
        like,
        name=name,
        block=block,
        experts=block.get_submodule(paths[like.experts]),
        router=None if like.router is None else block.get_submodule(paths[like.router]),
    )


def _make_of(block: nn.Module) -> Hashable:
    """Returns the key of a block's computation: its classes, options, shapes and hooks."""
    parts = []
    for path, module in block.named_modules():
        options = {n: v for n, v in vars(module).items() if n not in _POSITION_ATTRIBUTES}
        plain = [(n, v if isinstance(v, _PLAIN) else id(v)) for n, v in options.items()]
        tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        shapes = [(n, tuple(tensor.shape)) for n, tensor in tensors]
        hooks = [tuple(vars(module)[n].values()) for n in _HOOKS]
        parts.append((path, type(module), *plain, *shapes, *hooks))
    return tuple(parts)


def _describe(model: nn.Module, name: str, experts: nn.Module) -> MoELayer:
    """Describes the layer of experts that follow the convention."""
    if type(experts).__module__.startswith("peft."):  # it exposes the attributes of what it wraps
        raise ModelError(
            f"{name}: PEFT's {type(experts).__name__} wraps these experts; only LoRA through"
            " `target_parameters` is supported"
        )
    spec = spec_by_convention(experts)
    sizes = sizes_of(experts, spec, name)
    block_name = without_wrappers(name).rpartition(".")[0]
    block = model.get_submodule(block_name)
    router = next((getattr(block, r) for r in _ROUTERS if hasattr(block, r)), None)
    return MoELayer(block_name, block, spec, router, experts, *sizes)


def _no_layers(model: nn.Module, preset: str | None, found: list[MoELayer]) -> ModelError:
    others = sorted(
        {layer.spec.family for layer in found}
        or {type(m).__name__ for n, m in model.named_modules() if n.endswith("experts")}
    )
    return ModelError(
        f"{type(model).__name__} has no MoE layer of {preset or 'a known kind'}, so there are no"
        " experts to spread."
        + (f" It has experts of another kind: {', '.join(others)}." if others else "")
        + " Use a model of transformers 5, correct expert_parallel.preset_model, or set"
        " expert_parallel.enabled to false to train it without expert parallelism."
    )
