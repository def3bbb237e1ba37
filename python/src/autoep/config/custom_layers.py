"""The keys of `expert_parallel` that describe the MoE layers of a custom model.

A configuration has them beside the other keys of `expert_parallel`, as in DeepSpeed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from autoep.config.schema import (
    AMOUNT,
    FLAG,
    PATTERN,
    POSITIVE,
    TEXT,
    key,
    one_of,
    optional,
    wrong_value,
)


@dataclass(frozen=True)
class CustomLayersConfig:
    """The MoE layers of a model that transformers does not have.

    Attributes:
        moe_layer_pattern: A regular expression for the ends of the layers' names. Default: the
            layers are found by transformers' conventions, and no other key may be given.
        router_pattern: The layer's attribute with the router. Default: gate, or router.
        expert_pattern: The attribute with the experts: a ModuleList, or a module with stacked
            weights. Default: experts.
        expert_w1: The gate of an expert, a linear map or a stacked weight; with `expert_w3` left
            out, gate and up in one, or the up of experts without a gate. Default: found by trying.
        expert_w2: The linear map or stacked weight that produces the output.
        expert_w3: The linear map or stacked weight whose result multiplies the gate's.
        num_experts_attr: The attribute of the model's configuration with E, which is checked.
        top_k_attr: The attribute with K. Default: top_k of the layer or its router.
        top_k: K.
        has_shared_experts: False: the layer has no expert for all tokens.
        shared_experts_pattern: A regular expression for the attribute with the shared experts.
        score_func: "softmax" or "sigmoid". Default, here and below: found by trying.
        score_apply: Whether a weight multiplies an expert's output or its input.
        route_norm: Whether the weights of a token are divided by their sum.
        route_scale: The factor of the weights.
        routed_scaling_factor: An alias of `route_scale`.
        num_expert_groups: The number of groups of experts; limits a token to some of them.
        num_limited_groups: The number of groups that a token may use.
    """

    moe_layer_pattern: str | None = key(None, optional(PATTERN))
    router_pattern: str | None = key(None, optional(TEXT))
    expert_pattern: str | None = key(None, optional(TEXT))
    expert_w1: str | None = key(None, optional(TEXT))
    expert_w2: str | None = key(None, optional(TEXT))
    expert_w3: str | None = key(None, optional(TEXT))
    num_experts_attr: str | None = key(None, optional(TEXT))
    top_k_attr: str | None = key(None, optional(TEXT))
    top_k: int | None = key(None, optional(POSITIVE))
    has_shared_experts: bool | None = key(None, optional(FLAG))
    shared_experts_pattern: str | None = key(None, optional(PATTERN))
    score_func: str | None = key(None, optional(one_of("softmax", "sigmoid")))
    score_apply: str | None = key(None, optional(one_of("after", "before")))
    route_norm: bool | None = key(None, optional(FLAG))
    route_scale: float | None = key(None, optional(AMOUNT))
    routed_scaling_factor: float | None = key(None, optional(AMOUNT))
    num_expert_groups: int | None = key(None, optional(POSITIVE))
    num_limited_groups: int | None = key(None, optional(POSITIVE))


def check_custom_layers(config: CustomLayersConfig) -> None:
    """Raises if a key describes layers but `moe_layer_pattern` is not given."""
    if config.moe_layer_pattern is not None:
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_scale_of_one = isinstance(value, float) and value == 1.0
        if value is not None and not is_scale_of_one:
            raise wrong_value(
                f"expert_parallel.{field.name}",
                value,
                "nothing without moe_layer_pattern, whose layers it describes",
                "Of a model of transformers the model's own router decides it: remove the key.",
            )
