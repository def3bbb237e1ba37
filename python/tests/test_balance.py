"""Balancing by biases: an uneven load becomes even; wrong biases are refused."""

from __future__ import annotations

import pytest
import torch
from support.routers import E, layer_of
from torch import nn

import autoep
from autoep.layers.selection_bias import selection_bias
from autoep.routers.balance import BiasBalancer

# Where each family keeps its bias: on the router, on the block, in a module, as a parameter.
FAMILIES = {
    "deepseek_v3": {"n_group": 2, "topk_group": 2},
    "hy_v3": {},
    "afmoe": {"num_dense_layers": 0},
    "ernie4_5_moe": {},
}


class Whole(nn.Module):
    """A model of one layer."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block


@pytest.mark.parametrize("family", FAMILIES)
def test_an_uneven_load_becomes_even(family: str) -> None:
    layer = layer_of(family, FAMILIES[family])
    bias = selection_bias(layer.block, E)
    bias.data.zero_()
    generator = torch.Generator().manual_seed(9)
    x = 0.3 * (torch.randn(1, 2048, 32, generator=generator) + 0.3)
    loads: list[torch.Tensor] = []
    layer.router.register_forward_hook(
        lambda module, given, output: loads.append(torch.bincount(output[2].flatten(), minlength=E))
    )
    balancer = BiasBalancer(Whole(layer.block), [layer], 0.002)
    with torch.no_grad():
        for _ in range(300):
            layer.block(x)
            balancer.update(loads[-1].unsqueeze(0))
    first, last = (load.max() / load.double().mean() for load in (loads[0], loads[-1]))
    assert first > 1.5
    assert last < 1.1


def test_half_precision_biases_go_on_in_float32() -> None:
    layer = layer_of("ernie4_5_moe", {}, torch.bfloat16)
    balancer = BiasBalancer(Whole(layer.block), [layer], 1e-4)
    before = balancer.biases[0].clone()
    for _ in range(10):
        balancer.update(torch.tensor([[9, *[1] * (E - 1)]]))
    moved = (balancer.biases[0] - before).flatten()
    assert moved.dtype == torch.float32
    assert torch.allclose(moved, torch.tensor([-1e-3, *[1e-3] * (E - 1)]), atol=1e-6)


def test_biases_that_would_be_lost_are_refused() -> None:
    layer = layer_of("deepseek_v3", FAMILIES["deepseek_v3"])
    bias = layer.router.e_score_correction_bias
    layer.router.register_buffer("e_score_correction_bias", bias, persistent=False)
    with pytest.raises(autoep.ModelError, match="a checkpoint would lose it"):
        BiasBalancer(Whole(layer.block), [layer], 1e-3)
    layer = layer_of("afmoe", FAMILIES["afmoe"])
    layer.block.expert_bias.requires_grad = True
    with pytest.raises(autoep.ModelError, match="trained by the optimizer"):
        BiasBalancer(Whole(layer.block), [layer], 1e-3)
