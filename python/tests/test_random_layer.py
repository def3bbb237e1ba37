"""The generator of random layers: the same numbers everywhere, and the choices it is asked for."""

from __future__ import annotations

import pytest
import torch
from random_layer import CHOICES, NAMES, LayerShape, random_layer
from support import reference
from support.compare import assert_same_bits

T, K, E, H, F = 61, 3, 8, 6, 5
SHAPE = LayerShape(T, K, E, H, F, biases=True)


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("gate", ["concatenated", "none"])
@pytest.mark.parametrize("biases", [False, True])
def test_tensors_have_the_sizes_of_the_shape(layout: str, gate: str, biases: bool) -> None:
    shape = LayerShape(T, K, E, H, F, gate=gate, layout=layout, biases=biases)
    layer = random_layer(shape)
    columns = F if gate == "none" else 2 * F
    assert layer.gate_up.shape == ((E, columns, H) if layout == "out_in" else (E, H, columns))
    assert layer.down.shape == ((E, H, F) if layout == "out_in" else (E, F, H))
    assert (layer.gate_up_bias is None) == (layer.down_bias is None) == (not biases)
    assert layer.x.shape == layer.grad_y.shape == (T, H)
    assert layer.topk_idx.shape == layer.topk_weights.shape == (T, K)
    assert tuple(layer.given()) == NAMES


def test_numbers_depend_on_the_seed_alone() -> None:
    layer, other = random_layer(SHAPE, torch.float64), random_layer(SHAPE, torch.float64, seed=1)
    rounded = random_layer(SHAPE, torch.bfloat16, choice="skewed")
    plain = random_layer(LayerShape(T, K, E, H, F), torch.float64)
    for name in ("x", "topk_weights", "router", "gate_up", "down", "grad_y"):
        values = getattr(layer, name).detach()
        assert_same_bits(getattr(plain, name).detach(), values)
        assert_same_bits(getattr(rounded, name).detach(), values.bfloat16())
        assert not torch.equal(getattr(other, name), values)
    assert not torch.equal(layer.gate_up.flatten()[: T * H], layer.x.flatten()[: E * 2 * F * H])


def test_choices_are_those_that_were_asked_for() -> None:
    chosen = {choice: random_layer(SHAPE, choice=choice).topk_idx for choice in CHOICES}
    for choice, idx in chosen.items():
        assert idx.min() >= 0 and idx.max() < E
        assert choice == "one expert" or all(len(set(row)) == K for row in idx.tolist())
    share = {choice: (idx < K).double().mean().item() for choice, idx in chosen.items()}
    assert share["random"] == pytest.approx(K / E, abs=0.1)
    assert share["skewed"] > 0.8
    assert (chosen["one expert"] == E - 1).all()
    assert (chosen["even experts"] % 2 == 0).all()
    few = random_layer(SHAPE, experts_in_use=2).topk_idx
    assert few.max() == 1 and few.shape == (T, K)
    with pytest.raises(ValueError, match="choice: expected one of"):
        random_layer(SHAPE, choice="none")


def test_slots_without_an_expert_count_for_nothing() -> None:
    layer = random_layer(SHAPE, torch.float64, without_expert=4)
    empty = layer.topk_idx == -1
    assert empty.sum() == -(-T * K // 4)
    assert torch.equal(layer.topk_idx[~empty], random_layer(SHAPE).topk_idx[~empty])
    with torch.no_grad():
        layer.topk_weights[empty] = torch.nan
    y, _, grad_weights, *_ = layer.run(reference.experts, **SHAPE.options)
    assert not y.isnan().any()
    assert not grad_weights[empty].any()
    outside = random_layer(SHAPE, outside=True).topk_idx
    assert {-5, E, 2**31 - 1} <= set(outside.flatten().tolist())


def test_ranks_hold_parts_of_a_layer() -> None:
    layer = random_layer(SHAPE)
    part = layer.part(slice(10, 20), slice(2, 5))
    assert_same_bits(part.x.detach(), layer.x[10:20].detach())
    assert torch.equal(part.topk_idx, layer.topk_idx[10:20])
    assert_same_bits(part.down_bias.detach(), layer.down_bias[2:5].detach())
    assert part.gate_up.requires_grad and not part.grad_y.requires_grad
