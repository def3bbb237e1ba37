"""Routers that the engine replaces: which ones, and that nothing but the speed changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.routers import GROUPS, KNOWN, E, H, K, layer_of, routed, tokens
from torch import nn

import autoep
from autoep import functional
from autoep.layers import choice
from autoep.layers.choice import choose_experts
from autoep.routers.fused import FusedForward, fuse_routers
from autoep.routers.maths import find_router_maths

UNKNOWN = ["phimoe", "kolibri1"]


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
    layer = layer_of("deepseek_v3", GROUPS)
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


@pytest.mark.parametrize("score", ["softmax", "topk_softmax", "sigmoid", "sinkhorn"])
@pytest.mark.parametrize("choose", [choose_experts, choice._choose_beside_nan])
def test_tokens_without_usable_logits_have_weights_of_nan(choose: Callable, score: str) -> None:
    """On CPUs and as on GPUs; the other tokens are routed as they would be without them."""
    random = torch.Generator().manual_seed(2)
    logits = torch.randn(40, E, generator=random)
    logits[3, 1] = -torch.inf
    clean = logits.clone().requires_grad_()
    bad = [0, 7, 8, 20]
    for row, value in zip(bad, (torch.nan, torch.inf, -torch.inf, torch.nan), strict=True):
        logits[row, 2 if value != -torch.inf else slice(None)] = value
    logits.requires_grad_()
    options = {"score": score, "training": False}
    arguments = [options] if choose is choice._choose_beside_nan else []
    named = {} if arguments else options
    routed = choose(logits, K, *arguments, **named)
    expected = functional.route(clean, K, **options)
    good = torch.ones(40, dtype=torch.bool).index_fill(0, torch.tensor(bad), False)
    assert routed.topk_weights[~good].isnan().all()
    assert ((routed.topk_idx >= 0) & (routed.topk_idx < E)).all()
    assert torch.equal(routed.topk_idx[good], expected.topk_idx[good])
    assert torch.equal(routed.topk_weights[good], expected.topk_weights[good])
    direction = torch.randn(40, K, generator=random)
    mine, theirs = (
        torch.autograd.grad((r.topk_weights * direction)[good].sum(), given)[0]
        for r, given in ((routed, logits), (expected, clean))
    )
    assert torch.equal(mine[good], theirs[good])


def test_other_wrong_arguments_still_raise() -> None:
    with pytest.raises(autoep.InvalidArgumentError):
        choose_experts(torch.zeros(3, E), E + 1)
