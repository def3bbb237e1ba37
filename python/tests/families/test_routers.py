"""The routers of every family: fused or left alone, and described without weights."""

from __future__ import annotations

import inspect

import pytest
import torch
from support.compare import assert_close
from support.families import tiny
from torch import nn

import autoep
from autoep.detection.find import find_moe_layers
from autoep.layers.selection_bias import selection_bias
from autoep.layers.spec import MoELayer
from autoep.routers.fused import FusedForward, fuse_routers

REFUSED = {"doge", "nllb-moe", "switch_transformers", "vitpose", "vitpose_backbone"}

# Whose choice, weights or call are not among the engine's.
OWN = {
    "dbrx",  # the router is a linear map; the block chooses
    "deepseek_v4",  # square root of softplus, and hashes of the tokens
    "diffusion_gemma",  # norms and scales of its own, as in Gemma 4
    "diffusion_gemma_text",
    "gemma4",
    "gemma4_text",
    "inkling_mm_model",  # normalised together with the shared experts
    "inkling_text",
    "jetmoe",  # the block chooses
    "kolibri1",  # the bias is added to logits
    "llama4",  # all scores, most of them zero
    "llama4_text",
    "longcat_flash",  # experts without weights
    "muse_spark",  # logits are scaled
    "muse_spark_text",
    "openai_privacy_filter",  # weights are divided by K
    "phimoe",  # sparse mixer
    "zaya",  # a network with a state
}


def tiny_model_or_skip(model_type: str) -> nn.Module:
    """A model of a family; the test of one that cannot be built is skipped with the reason."""
    try:
        return tiny.tiny_model(model_type)
    except tiny.NotBuiltError as reason:
        pytest.skip(f"not built: {reason}")


def routed(layer: MoELayer) -> list[torch.Tensor]:
    """What a router returns for the same tokens, its experts in order, and a gradient."""
    generator = torch.Generator().manual_seed(3)
    width = next(p for p in layer.router.parameters() if p.ndim == 2).shape[1]
    x = torch.randn(50, width, generator=generator, requires_grad=True)
    own_forward = getattr(layer.router.forward, "_own_forward", layer.router.forward)
    takes_bias = len(inspect.signature(own_forward).parameters) == 2
    bias = [selection_bias(layer.block, layer.num_experts)] if takes_bias else []
    try:
        logits, weights, idx = layer.router(x, *bias)
    except ValueError:  # it takes [B, S, H] only
        logits, weights, idx = layer.router(x.unsqueeze(0), *bias)
    idx, order = idx.sort(1)
    weights = weights.gather(1, order)
    direction = torch.randn(50, layer.num_experts, generator=generator).gather(1, idx)
    (gradient,) = torch.autograd.grad((weights * direction).sum(), x)
    return [logits, weights, idx.float(), gradient]


@pytest.mark.parametrize("model_type", sorted(set(tiny.moe_model_types()) - REFUSED))
def test_a_fused_router_is_the_familys(model_type: str) -> None:
    model = tiny_model_or_skip(model_type).float()
    layers = [layer for layer in find_moe_layers(model) if layer.router is not None]
    for layer in layers:
        bias = selection_bias(layer.block, layer.num_experts)
        if bias is not None:
            bias.data.uniform_(-0.1, 0.1)
    known = layers if model_type not in OWN else []
    expected = [routed(layer) for layer in known]
    fuse_routers(layers)
    fused = [layer for layer in layers if isinstance(layer.router.forward, FusedForward)]
    assert fused == known
    for layer, theirs in zip(known, expected, strict=True):
        assert_close(routed(layer), theirs)


@pytest.mark.parametrize("model_type", tiny.moe_model_types())
def test_every_family_is_described(model_type: str) -> None:
    found = autoep.inspect(tiny_model_or_skip(model_type))
    if model_type in REFUSED:
        assert not found.blocks
        assert all("cannot be spread over ranks" in other.reason for other in found.unsupported)
        assert found.unsupported
        return
    # JetMoE's attention has experts too, which stay whole.
    assert bool(found.unsupported) == (model_type == "jetmoe")
    for blocks in found.blocks:
        assert (blocks.num_experts, blocks.top_k) in ((8, 2), (8, 1)) or model_type == "muse_spark"
        assert blocks.router.startswith("its own") == (model_type in OWN - {"jetmoe"})
