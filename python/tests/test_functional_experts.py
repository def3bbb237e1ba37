"""Experts against plain torch, alone and on several ranks."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from random_layer import LayerShape, RandomLayer, random_layer
from support import reference
from support.compare import assert_close, assert_same_bits
from support.passes import rank_part
from support.ranks import run_ranks
from torch.utils.checkpoint import checkpoint

from autoep import functional

T, H, F, E, K = 19, 16, 12, 7, 3

GATED = [
    {"activation": activation, "gate": gate}
    for activation in (
        "silu",
        "gelu",
        "gelu_tanh",
        "relu_squared",
        "clamped_swiglu",
        "clamped_silu",
    )
    for gate in ("concatenated", "interleaved")
]
PLAIN = [
    {"activation": activation, "gate": "none"}
    for activation in ("silu", "gelu", "gelu_tanh", "relu_squared")
]
CLAMPED = {"swiglu_alpha": 1.3, "swiglu_limit": 0.6}
OPTIONS = [
    *GATED,
    *PLAIN,
    {"activation": "clamped_swiglu", "gate": "interleaved", **CLAMPED},
    {"activation": "clamped_silu", "gate": "concatenated", **CLAMPED},
]


def option_name(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


def layer_of(dtype: torch.dtype, *, tokens: int = T, experts: int = E, **shape: Any) -> RandomLayer:
    """A layer of this file's sizes."""
    return random_layer(LayerShape(tokens, K, experts, H, F, **shape), dtype)


@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("score_apply", ["after", "before"])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("options", OPTIONS, ids=option_name)
def test_every_option_matches_torch(
    options: dict[str, Any], layout: str, score_apply: str, has_bias: bool, dtype: torch.dtype
) -> None:
    layer = layer_of(dtype, gate=options["gate"], layout=layout, biases=has_bias)
    options = {**options, "layout": layout, "score_apply": score_apply}
    expected = layer.double().run(reference.experts, **options)
    assert_close(layer.run(functional.experts, **options), expected)


SPLITS = {1: [T], 2: [11, 8], 4: [0, 9, 4, 6], 5: [3, 4, 0, 12, 0]}


@pytest.mark.parametrize("experts", [7, 8, 3], ids=lambda e: f"E{e}")
@pytest.mark.parametrize("ranks", SPLITS)
@pytest.mark.parametrize("score_apply", ["after", "before"])
def test_ranks_give_the_bits_of_one(
    score_apply: str, ranks: int, experts: int, dtype: torch.dtype
) -> None:
    """Over uneven experts, ranks without experts (3 over 4) and ranks without tokens."""
    layer = layer_of(dtype, experts=experts, biases=True)
    options = {"num_experts": experts, "score_apply": score_apply}
    expected = layer.run(functional.experts, **options)
    results = run_ranks(
        ranks,
        lambda comm: rank_part(layer, comm, SPLITS[ranks]).run(
            functional.experts, comm=comm, **options
        ),
    )
    joined = [torch.cat(pieces) for pieces in zip(*results, strict=True)]
    for index in (0, 1, 2):  # y, and the gradients to x and to the weights of the top-k
        assert_same_bits(joined[index], expected[index])
    # Weight gradients add their rows in the order of arrival: by rank, then token.
    assert_close(joined, [tensor.double() for tensor in expected])


def test_bf16_ranks_give_the_bits_of_one() -> None:
    layer = layer_of(torch.bfloat16)
    expected = layer.run(functional.experts)
    results = run_ranks(
        4,
        lambda comm: rank_part(layer, comm, SPLITS[4]).run(
            functional.experts, comm=comm, num_experts=E
        ),
    )
    for index in (0, 1):
        joined = torch.cat([result[index] for result in results])
        assert torch.equal(joined, expected[index])


def test_reruns_give_the_same_bits(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, biases=True)
    again = layer.clone()
    for a, b in zip(layer.run(functional.experts), again.run(functional.experts), strict=True):
        assert_same_bits(a, b)


def test_gradcheck() -> None:
    layer = layer_of(torch.float64, biases=True, tokens=4, experts=3)
    layer.topk_idx = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]])

    def forward(x, topk_weights, gate_up, down, gate_up_bias, down_bias):
        return functional.experts(
            x,
            layer.topk_idx,
            topk_weights,
            gate_up,
            down,
            gate_up_bias=gate_up_bias,
            down_bias=down_bias,
        )

    assert torch.autograd.gradcheck(forward, layer.inputs)


def test_all_tokens_on_one_expert() -> None:
    layer = layer_of(torch.float64)
    layer.topk_idx = torch.zeros(T, 1, dtype=torch.int32) + 4
    layer.topk_weights = layer.topk_weights.detach()[:, :1].clone().requires_grad_()
    expected = layer.double().run(reference.experts)
    actual = layer.run(functional.experts)
    assert_close(actual, expected)
    untouched = [e for e in range(E) if e != 4]
    assert not actual[3][untouched].any(), "experts without tokens get zeros"


def test_no_tokens_give_zero_gradients() -> None:
    layer = layer_of(torch.float64, tokens=0, biases=True)
    y, *gradients = layer.run(functional.experts)
    assert y.shape == (0, H)
    assert all(gradient is not None for gradient in gradients)
    assert not any(gradient.any() for gradient in gradients)


def test_frozen_weights_get_no_gradient_and_x_still_does() -> None:
    layer = layer_of(torch.float64)
    expected = layer.double().run(reference.experts)
    layer.gate_up.requires_grad_(False)
    layer.topk_weights.requires_grad_(False)
    actual = layer.run(functional.experts)
    assert actual[2] is None and actual[3] is None
    assert_close([actual[1], actual[4]], [expected[1], expected[4]])


def test_activation_checkpointing_gives_the_same_bits() -> None:
    layer = layer_of(torch.float32)
    again = layer.clone()
    expected = layer.run(functional.experts)
    actual = again.run(
        lambda *tensors, **options: checkpoint(
            functional.experts, *tensors, use_reentrant=False, **options
        )
    )
    for a, b in zip(actual[:5], expected[:5], strict=True):
        assert_same_bits(a, b)


def test_no_grad_keeps_no_graph() -> None:
    layer = layer_of(torch.float32)
    with torch.no_grad():
        y = functional.experts(
            layer.x, layer.topk_idx, layer.topk_weights, layer.gate_up, layer.down
        )
    assert y.grad_fn is None


def test_strided_inputs_are_read_as_they_look() -> None:
    layer = layer_of(torch.float32)
    again = layer.map(lambda tensor: tensor.mT.contiguous().mT)
    assert not again.gate_up.is_contiguous()
    for a, b in zip(
        layer.run(functional.experts)[:5], again.run(functional.experts)[:5], strict=True
    ):
        assert_same_bits(a, b)


def test_a_plan_serves_several_passes() -> None:
    layer = layer_of(torch.float32)
    plan = functional.experts_plan(
        layer.topk_idx, num_experts=E, hidden_size=H, ffn_size=F, dtype="float32"
    )
    counts = torch.bincount(layer.topk_idx.flatten(), minlength=E).tolist()
    assert plan.tokens_per_expert_sent() == counts
    assert plan.tokens_per_expert_received() == counts
    assert (plan.num_tokens, plan.rows, plan.rows_capacity) == (T, T * K, T * K)
    assert (plan.first_expert, plan.local_experts) == (0, E)
    expected = layer.run(functional.experts)
    for _ in range(2):
        again = layer.clone()
        for a, b in zip(again.run(functional.experts, plan=plan)[:5], expected[:5], strict=True):
            assert_same_bits(a, b)


def test_numpy_gives_the_same_bits(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, biases=True)
    expected = layer.run(functional.experts, score_apply="before")
    x, weights, *parameters = [tensor.detach().numpy() for tensor in layer.inputs]
    gate_up, down, gate_up_bias, down_bias = parameters
    plan = functional.experts_plan(
        layer.topk_idx.numpy(),
        num_experts=E,
        hidden_size=H,
        ffn_size=F,
        dtype=x.dtype.name,
        score_apply="before",
    )
    y, saved = functional.experts_forward(
        x,
        weights,
        gate_up,
        down,
        gate_up_bias=gate_up_bias,
        down_bias=down_bias,
        plan=plan,
    )
    gradients = functional.experts_backward(layer.grad_y.numpy(), saved)
    actual = [
        y,
        gradients.x,
        gradients.topk_weights,
        gradients.gate_up,
        gradients.down,
        gradients.gate_up_bias,
        gradients.down_bias,
    ]
    for a, e in zip(actual, expected, strict=True):
        numpy.testing.assert_array_equal(a, e)
    some = functional.experts_backward(layer.grad_y.numpy(), saved, wanted=["down"])
    assert some.gate_up is None and some.topk_weights is None
    numpy.testing.assert_array_equal(some.down, gradients.down)


def test_weights_may_require_a_gradient_on_some_ranks_only() -> None:
    """A rank without tokens, for one, makes weights that do not; all ranks send their gradients."""
    layer = layer_of(torch.float32)
    expected = layer.run(functional.experts, num_experts=E)

    def body(comm: Any) -> list[torch.Tensor | None]:
        part = rank_part(layer, comm, [T, 0])
        if comm.rank == 1:
            part.topk_weights = part.topk_weights.detach()
        return part.run(functional.experts, comm=comm, num_experts=E)

    first, second = run_ranks(2, body)
    for index in (0, 1, 2):
        assert_same_bits(first[index], expected[index])
    assert second[2] is None
