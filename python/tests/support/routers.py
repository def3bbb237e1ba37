"""MoE layers of transformers' families, whose routers the engine knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from autoep.detection.find import find_moe_layers
from autoep.layers.selection_bias import selection_bias
from autoep.layers.spec import MoELayer

E, H, K = 8, 32, 2
_SIZES = dict(
    vocab_size=64,
    hidden_size=H,
    intermediate_size=24,
    moe_intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=E,
    num_experts=E,
    n_routed_experts=E,
    num_experts_per_tok=K,
    first_k_dense_replace=0,
    kv_lora_rank=16,
    q_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    routed_scaling_factor=1.5,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


GROUPS = {"n_group": 4, "topk_group": 2}
# For each family, changes to its configuration, and the options found.
KNOWN: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mixtral": ("mixtral", {}, {"score": "softmax", "normalize": True}),
    "qwen3_moe": ("qwen3_moe", {}, {"score": "softmax", "normalize": False}),
    "qwen3_moe, norm": (
        "qwen3_moe",
        {"norm_topk_prob": True},
        {"score": "softmax", "normalize": True},
    ),
    "jamba": ("jamba", {}, {"score": "softmax", "normalize": False}),
    "gpt_oss": ("gpt_oss", {}, {"score": "softmax", "normalize": True}),
    "granitemoe": ("granitemoe", {}, {"score": "softmax", "normalize": True}),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {}, {"score": "softmax", "normalize": True}),
    "ernie4_5_moe": ("ernie4_5_moe", {}, {"score": "softmax", "normalize": True}),
    "deepseek_v2, greedy": (
        "deepseek_v2",
        {"topk_method": "greedy"},
        {"score": "softmax", "scale": 1.5},
    ),
    "deepseek_v2, groups": (
        "deepseek_v2",
        {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1},
        {"group_score": "max", "num_groups": 2, "topk_groups": 1, "scale": 1.5},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        GROUPS,
        {
            "score": "sigmoid",
            "normalize": True,
            "scale": 1.5,
            "group_score": "top2_sum",
            "num_groups": 4,
            "topk_groups": 2,
        },
    ),
    "hy_v3": ("hy_v3", {}, {"score": "sigmoid", "normalize": True, "scale": 2.826}),
    "afmoe": ("afmoe", {"num_dense_layers": 0}, {"score": "sigmoid", "normalize": True}),
    "lfm2_moe": (
        "lfm2_moe",
        {"layer_types": ["conv", "full_attention"], "num_dense_layers": 0},
        {"score": "sigmoid", "normalize": True, "scale": 1.5},
    ),
}


# Families whose routers do not return (logits, topk_weights, topk_idx) before transformers 5.23.
MADE_ROUTERS_LATER = ("jamba", "granitemoe")


def returns_a_routing(router: nn.Module) -> bool:
    weight = next(router.parameters())
    output = router.forward(torch.zeros(2, H, dtype=weight.dtype))
    return isinstance(output, tuple) and output[0].shape == (2, E)


def layer_of(family: str, changes: dict[str, Any], dtype: torch.dtype = torch.float32) -> MoELayer:
    config = AutoConfig.for_model(family, **{**_SIZES, **changes})
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    layer = find_moe_layers(model)[-1]
    if family in MADE_ROUTERS_LATER and not returns_a_routing(layer.router):
        pytest.skip(
            f"{family}'s router returns no routing in transformers {transformers.__version__}"
        )
    nn.init.normal_(next(p for p in layer.router.parameters() if p.shape == (E, H)))
    bias = selection_bias(layer.block, E)
    if bias is not None:
        bias.data.uniform_(-0.2, 0.2)
    return layer


def tokens(dtype: torch.dtype) -> torch.Tensor:
    """Returns tokens [B, S, H] that no probe has seen."""
    generator = torch.Generator().manual_seed(77)
    return torch.randn(3, 40, H, generator=generator).to(dtype).requires_grad_()


def routed(layer: MoELayer, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns the layer's output, and the gradients to the tokens and the router."""
    trained = [p for p in layer.router.parameters() if p.requires_grad]
    output = layer.block(x)
    y = output[0] if isinstance(output, tuple) else output
    return [y, *torch.autograd.grad(y.square().sum(), [x, *trained])]
