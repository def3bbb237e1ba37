"""`experts_implementation="autoep"` and the fused routers on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from support.compare import assert_close
from support.cuda.lab import DEVICE, needs_gpu
from support.experts_classes import KINDS, ModuleConfig, case, results
from support.routers import KNOWN, layer_of, routed, tokens

from autoep.routers.fused import FusedForward, fuse_routers

pytestmark = needs_gpu


@pytest.mark.parametrize("kind", KINDS)
def test_experts_on_a_gpu_are_those_of_transformers(kind: str) -> None:
    """In float32, against transformers' own in float64 with the same numbers."""
    experts, (x, idx, weights) = case(kind, torch.float32)
    wide = copy.deepcopy(experts).double()
    x64, weights64 = (t.detach().double().requires_grad_() for t in (x, weights))
    expected = results(wide, wide(x64, idx, weights64), x64, weights64)

    experts = experts.to(DEVICE)
    experts.config = ModuleConfig("autoep")
    x, weights = (t.detach().to(DEVICE).requires_grad_() for t in (x, weights))
    idx = idx.to(DEVICE)
    found = results(experts, experts(x, idx, weights), x, weights)
    assert all(tensor.device.type == DEVICE for tensor in found)
    assert_close([tensor.cpu() for tensor in found], expected)


@pytest.mark.parametrize("kind", ["silu", "clamped"])
def test_nothing_waits_for_the_gpu(kind: str) -> None:
    experts, (x, idx, weights) = case(kind, torch.bfloat16)
    experts = experts.to(DEVICE)
    experts.config = ModuleConfig("autoep")
    x, weights = (t.detach().to(DEVICE).requires_grad_() for t in (x, weights))
    idx, direction = idx.to(DEVICE), torch.randn_like(x)
    experts(x, idx, weights)  # what is found out once is found out
    torch.cuda.set_sync_debug_mode("error")
    try:
        experts(x, idx, weights).backward(direction)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", KNOWN)
def test_a_fused_router_on_a_gpu_changes_nothing(name: str) -> None:
    family, changes, _ = KNOWN[name]
    layer = layer_of(family, changes)
    layer.block.to(DEVICE)
    x = tokens(torch.float32).detach().to(DEVICE).requires_grad_()
    expected = routed(layer, x)
    fuse_routers([layer])
    assert isinstance(layer.router.forward, FusedForward)
    assert_close([t.cpu() for t in routed(layer, x)], [t.cpu() for t in expected])
