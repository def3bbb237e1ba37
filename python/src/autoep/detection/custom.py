"""Layers of custom models, described by the configuration's keys.

The keys are DeepSpeed's. They name the parts; the computation is found, and checked, by comparing
results, as for every other model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from autoep.config.custom_layers import CustomLayersConfig
from autoep.detection.names import USUAL, Names
from autoep.detection.unmarked import describe_unmarked
from autoep.errors import ConfigError, ModelError
from autoep.layers.spec import MoELayer


def find_custom_layers(model: nn.Module, config: CustomLayersConfig) -> list[MoELayer]:
    """Finds the layers whose names match `moe_layer_pattern`, in the order of the modules.

    Raises:
        ConfigError: A key names something that the model lacks.
        ModelError: The engine cannot replace a layer.
    """
    names = _names(model, config)
    layers = list(_matching(model, config.moe_layer_pattern, names))
    for layer in layers:
        _check_parts(layer, config, names)
    wanted = _number(model, "num_experts_attr", config.num_experts_attr)
    for layer in layers:
        if wanted not in (None, layer.num_experts):
            raise ConfigError(
                f"config: expert_parallel.num_experts_attr: the model's configuration says"
                f" {config.num_experts_attr} = {wanted}, but {layer.name} has {layer.num_experts}"
                " experts"
            )
    return layers


def _check_parts(layer: MoELayer, config: CustomLayersConfig, names: Names) -> None:
    """Raises if a key names a part that a layer lacks."""
    if config.router_pattern is not None and layer.router is None:
        raise _no_part(layer, "router_pattern", config.router_pattern)
    if names.shared_of(layer.block) is not None:
        return
    if config.shared_experts_pattern is not None and config.has_shared_experts is not False:
        raise _no_part(layer, "shared_experts_pattern", config.shared_experts_pattern)
    if config.has_shared_experts:
        raise _no_part(layer, "has_shared_experts", "shared_expert(s)")


def _no_part(layer: MoELayer, key: str, part: str) -> ConfigError:
    children = ", ".join(name for name, _ in layer.block.named_children())
    return ConfigError(
        f"config: expert_parallel.{key}: {layer.name} has no {part!r}; its parts are {children}"
    )


def _matching(model: nn.Module, pattern: str, names: Names) -> Iterator[MoELayer]:
    matching = [n for n, _ in model.named_modules() if n and re.search(f"(?:{pattern})$", n)]
    if not matching:
        raise ConfigError(
            f"config: expert_parallel.moe_layer_pattern: no module's name ends with {pattern!r};"
            f" the model has {', '.join(list(dict(model.named_modules()))[1:8])}, ..."
        )
    for name in matching:
        layer = describe_unmarked(name, model.get_submodule(name), names)
        if layer is None:
            raise ModelError(
                f"{name}: it matches moe_layer_pattern, but has no experts under"
                f" {names.experts!r} that are modules or stacked weights; correct expert_pattern,"
                " expert_w1, expert_w2 and expert_w3"
            )
        yield layer


def _names(model: nn.Module, config: CustomLayersConfig) -> Names:
    parts = (config.expert_w1, config.expert_w3, config.expert_w2)
    if (config.expert_w1 is None and parts != (None, None, None)) or (
        config.expert_w1 is not None and config.expert_w2 is None
    ):
        raise ConfigError(
            "config: expert_parallel.expert_w1, expert_w2: given one without the other; w1 is the"
            " gate (or gate and up in one), w2 gives the output, w3 is the up"
        )
    shared = (config.shared_experts_pattern,) if config.shared_experts_pattern else USUAL.shared
    return Names(
        routers=(config.router_pattern,) if config.router_pattern else USUAL.routers,
        experts=config.expert_pattern or USUAL.experts,
        weights=tuple(part for part in parts if part is not None),
        shared=() if config.has_shared_experts is False else shared,
        top_k=config.top_k or _number(model, "top_k_attr", config.top_k_attr),
        routing=_routing(config),
        score_apply=config.score_apply,
    )


def _routing(config: CustomLayersConfig) -> dict[str, Any]:
    """Returns the fields of a `BlockRouter` that the keys set."""
    scale = config.route_scale if config.routed_scaling_factor is None else None
    given = {
        "score": config.score_func,
        "normalize": config.route_norm,
        "scale": config.routed_scaling_factor if scale is None else scale,
        "num_groups": config.num_expert_groups,
        "topk_groups": config.num_limited_groups,
    }
    return {name: value for name, value in given.items() if value is not None}


def _number(model: nn.Module, key: str, attribute: str | None) -> int | None:
    """Returns the value of an attribute of the model's configuration, or of the model."""
    if attribute is None:
        return None
    for holder in (getattr(model, "config", None), model):
        if isinstance(getattr(holder, attribute, None), int):
            return getattr(holder, attribute)
    raise ConfigError(
        f"config: expert_parallel.{key}: neither the model's configuration nor the model has a"
        f" whole number {attribute!r}"
    )
