"""`autoep.inspect`: the MoE blocks of a model, their sizes, and what is not supported."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import nn

from autoep.detection.conventions import follows_convention
from autoep.detection.find import find_moe_layers
from autoep.errors import ModelError
from autoep.inspection.build import model_on_meta
from autoep.inspection.model import Blocks, Inspection, Unsupported
from autoep.inspection.routers import describe_router, maths_without_weights
from autoep.layers.spec import MoELayer

if TYPE_CHECKING:
    import transformers

_SHARED = ("shared_experts", "shared_expert", "shared_mlp")


def inspect(
    model: nn.Module | transformers.PretrainedConfig | str | PathLike[str],
) -> Inspection:
    """Returns what AutoEP finds in a model; loads no weights and changes nothing.

    Args:
        model: A model; a config; the path of a config.json or of its folder; or the name of a
            model on the Hub, of which only the config is read.

    Raises:
        ConfigError: It cannot be read, or transformers has no model for it.
    """
    built = model_on_meta(model)
    layers, refusal = _layers(built)
    spread = {id(p) for layer in layers for p in _expert_weights(layer).values()}
    first = next(built.parameters(), None)
    return Inspection(
        model=type(built).__name__,
        blocks=tuple(_describe(built, alike) for alike in _alike(layers)),
        unsupported=tuple(_unsupported(built, layers, refusal)),
        parameters=sum(p.numel() for p in built.parameters()),
        dense_bytes=sum(p.nbytes for p in built.parameters() if id(p) not in spread),
        dtype="none" if first is None else str(first.dtype).removeprefix("torch."),
    )


def _layers(model: nn.Module) -> tuple[list[MoELayer], str]:
    """Returns the layers that are spread, or the reason why none is."""
    try:
        return find_moe_layers(model), ""
    except ModelError as error:
        return [], str(error)


def _alike(layers: list[MoELayer]) -> list[list[MoELayer]]:
    """Groups the layers that differ only in their names."""
    groups: dict[Any, list[MoELayer]] = {}
    for layer in layers:
        sizes = (layer.num_experts, layer.hidden_size, layer.ffn_size)
        router = (type(layer.router), _router_numbers(layer), layer.routing)
        kind = (layer.spec, sizes, router, _shared(layer.block))
        groups.setdefault(kind, []).append(layer)
    return list(groups.values())


def _router_numbers(layer: MoELayer) -> tuple[tuple[str, Any], ...]:
    kept = {} if layer.router is None else vars(layer.router)
    numbers = {n: v for n, v in kept.items() if isinstance(v, bool | int | float | str)}
    return tuple((n, v) for n, v in numbers.items() if n != "layer_idx")


def _describe(model: nn.Module, alike: list[MoELayer]) -> Blocks:
    layer = alike[0]
    maths = maths_without_weights(layer)
    weights = _expert_weights(layer)
    return Blocks(
        names=tuple(other.name for other in alike),
        family=layer.spec.family,
        num_experts=layer.num_experts,
        top_k=_top_k(layer) if maths is None else maths.top_k,
        hidden_size=layer.hidden_size,
        ffn_size=layer.ffn_size,
        activation=layer.spec.activation,
        router=describe_router(layer, maths),
        shared_experts=_shared(layer.block),
        parameters=sum(p.numel() for p in weights.values()),
        expert_bytes=sum(p.nbytes for p in weights.values()) // layer.num_experts,
        interfaces=tuple(_interfaces(model, layer)),
    )


def _expert_weights(layer: MoELayer) -> dict[str, nn.Parameter]:
    return {name: layer.experts.get_parameter(name) for name in layer.parameter_names()}


def _top_k(layer: MoELayer) -> int | None:
    config = getattr(layer.experts, "config", None)
    holders = (layer.routing, layer.router, layer.block, config)
    names = ("top_k", "num_experts_per_tok", "top_k_experts", "moe_topk")
    values = (getattr(holder, name, None) for holder in holders for name in names)
    return next((value for value in values if type(value) is int), None)


def _shared(block: nn.Module) -> str:
    name = next((name for name in _SHARED if getattr(block, name, None) is not None), None)
    if name is None:
        return ""
    count = sum(p.numel() for p in getattr(block, name).parameters())
    gated = ", gated" if hasattr(block, "shared_expert_gate") else ""
    return f"{name} of {count:,} parameters{gated}"


def _interfaces(model: nn.Module, layer: MoELayer) -> Iterator[str]:
    yield "initialize"
    if follows_convention(layer.experts):
        yield "experts_implementation"
    if "ep_dispatch_experts" in (getattr(model, "_ep_plan", None) or {}).values():
        yield "ep_implementation"


def _unsupported(model: nn.Module, layers: list[MoELayer], refusal: str) -> Iterator[Unsupported]:
    """Yields modules named as experts that belong to no layer, by their class."""
    known = {id(part) for layer in layers for part in layer.block.modules()}
    others: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if _looks_like_experts(name, module) and id(module) not in known:
            others.setdefault(type(module).__name__, []).append(name)
    for kind, names in others.items():
        yield Unsupported(
            tuple(names), refusal or f"{kind}: how it computes its experts is not known"
        )
    if refusal and not others:
        yield Unsupported((), refusal)


def _looks_like_experts(name: str, module: nn.Module) -> bool:
    own = name.rpartition(".")[2]
    return own == "experts" and next(module.parameters(), None) is not None
