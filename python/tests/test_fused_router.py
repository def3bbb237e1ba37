"""Routers that the engine replaces: which ones, and that nothing but the speed changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from conftest import assert_close
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from autoep.detection import MoELayer
from autoep.detection.find import find_moe_layers
from autoep.routing.bias import selection_bias
from autoep.routing.fused import FusedForward, fuse_routers
from autoep.routing.maths import find_router_maths

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
_GROUPS = {"n_group": 4, "topk_group": 2}

# For each family, changes of its configuration and the options that are found.
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
        _GROUPS,
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
UNKNOWN = ["phimoe", "kolibri1"]


# Their routers do not return (logits, topk_weights, topk_idx) before transformers 5.23.
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
    """[B, S, H] that no probe has seen."""
    generator = torch.Generator().manual_seed(77)
    return torch.randn(3, 40, H, generator=generator).to(dtype).requires_grad_()


def routed(layer: MoELayer, x: torch.Tensor) -> list[torch.Tensor]:
    """The layer's output, and the gradients to the tokens and the router."""
    trained = [p for p in layer.router.parameters() if p.requires_grad]
    output = layer.block(x)
    y = output[0] if isinstance(output, tuple) else output
    return [y, *torch.autograd.grad(y.square().sum(), [x, *trained])]


@pytest.mark.parametrize("name", KNOWN)
def test_a_fused_router_changes_nothing(name: str) -> None:
    family, changes, options = KNOWN[name]
    layer = layer_of(family, changes)
    x = tokens(torch.float32)
    seen: list[Any] = []
    layer.router.register_forward_hook(lambda module, given, output: seen.append(output))
    router = layer.router
    expected = routed(layer, x)
    fuse_routers([layer])
    assert isinstance(router.forward, FusedForward)
    assert options.items() <= router.forward._maths.options.items()
    assert_close(routed(layer, x), expected)
    (own, fused) = seen
    assert torch.equal(fused[0], own[0])
    assert torch.equal(fused[2].sort(1).values, own[2].sort(1).values)
    assert [part.dtype for part in fused] == [part.dtype for part in own]
    assert (
        layer.block.get_submodule("router" if hasattr(layer.block, "router") else "gate") is router
    )


@pytest.mark.parametrize("name", KNOWN)
def test_routers_are_known_in_bf16_too(name: str) -> None:
    """The weights are the router's own but for the last rounding, where no two logits are equal."""
    family, changes, options = KNOWN[name]
    layer = layer_of(family, changes, torch.bfloat16)
    maths = find_router_maths(layer.router, E, torch.bfloat16)
    if name == "lfm2_moe":  # it rounds after every step; the engine would round once
        assert maths is None
        return
    assert options.items() <= maths.options.items()


def test_float64_routers_that_round_to_float32_keep_their_forward() -> None:
    layer = layer_of("qwen3_moe", {}, torch.float64)
    assert find_router_maths(layer.router, E, torch.float64) is None


@pytest.mark.parametrize("family", UNKNOWN)
def test_other_maths_is_left_alone(family: str) -> None:
    layer = layer_of(family, {})
    own = layer.router.forward
    fuse_routers([layer])
    assert layer.router.forward == own


def test_probing_leaves_no_trace() -> None:
    layer = layer_of("deepseek_v3", _GROUPS)
    before = [t.detach().clone() for t in (*layer.router.parameters(), *layer.router.buffers())]
    calls: list[Any] = []
    layer.router.register_forward_hook(lambda *given: calls.append(given))
    state = torch.get_rng_state()
    find_router_maths(layer.router, E, torch.float32)
    after = [t.detach() for t in (*layer.router.parameters(), *layer.router.buffers())]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not calls
    assert all(parameter.grad is None for parameter in layer.router.parameters())


class Router(nn.Module):
    """Mixtral's, with a step that can be another."""

    def __init__(self, step: Callable[..., tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(E, H))
        self.routed_scaling_factor = 2.0
        self.step = step

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = nn.functional.linear(hidden_states, self.weight)
        return self.step(logits, *logits.float().softmax(-1).topk(K))


ALMOST: dict[str, Callable[..., tuple[torch.Tensor, ...]]] = {
    "another scale": lambda logits, weights, idx: (logits, weights * 1.001, idx),
    "a detached sum": lambda logits, weights, idx: (
        logits,
        weights / weights.detach().sum(1, keepdim=True),
        idx,
    ),
    "the lowest": lambda logits, weights, idx: (logits, weights, (-logits).topk(K).indices),
    "one of them": lambda logits, weights, idx: (logits, weights, idx.clamp(max=E - 2)),
    "probabilities": lambda logits, weights, idx: (logits.softmax(-1), weights, idx),
    "noise": lambda logits, weights, idx: (logits, weights * torch.rand_like(weights), idx),
    "four": lambda logits, weights, idx: (logits, weights, idx, idx),
}


def test_the_plain_step_is_known() -> None:
    router = Router(lambda *routed: routed)
    assert find_router_maths(router, E, torch.float32).options["scale"] == 1.0
    doubled = Router(lambda logits, weights, idx: (logits, weights * 2.0, idx))
    assert find_router_maths(doubled, E, torch.float32).options["scale"] == 2.0


@pytest.mark.parametrize("name", ALMOST)
def test_what_is_almost_known_is_left_alone(name: str) -> None:
    assert find_router_maths(Router(ALMOST[name]), E, torch.float32) is None


def test_a_router_with_more_weights_is_left_alone() -> None:
    router = Router(lambda *routed: routed)
    router.per_expert_scale = nn.Parameter(torch.ones(E))
    assert find_router_maths(router, E, torch.float32) is None


def test_under_autocast_the_router_runs_as_it_is() -> None:
    layer = layer_of("mixtral", {})
    x = tokens(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer.router(x)
        fuse_routers([layer])
        found = layer.router(x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
