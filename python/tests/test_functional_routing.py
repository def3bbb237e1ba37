"""Routing, the z-loss and the jitter against plain torch."""

from __future__ import annotations

import numpy
import pytest
import torch
from support import reference
from support.compare import assert_close, assert_same_bits

from autoep import functional

T, E, K = 33, 12, 3

OPTIONS = {
    "softmax": {},
    "softmax_normalized": {"normalize": True},
    "softmax_scaled": {"normalize": True, "scale": 2.5},
    "topk_softmax": {"score": "topk_softmax"},
    "sigmoid": {"score": "sigmoid"},
    "sigmoid_normalized": {"score": "sigmoid", "normalize": True, "scale": 0.5},
    "sigmoid_epsilon": {"score": "sigmoid", "normalize": True, "normalize_epsilon": 1e-2},
    "groups_max": {"group_score": "max", "num_groups": 4, "topk_groups": 2},
    "groups_top2": {
        "score": "sigmoid",
        "group_score": "top2_sum",
        "num_groups": 3,
        "topk_groups": 2,
        "normalize": True,
    },
    "sinkhorn": {"score": "sinkhorn"},
    "sinkhorn_once": {"score": "sinkhorn", "sinkhorn_iterations": 1},
    "sinkhorn_eval": {"score": "sinkhorn", "training": False},
}


def logits_of(generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(T, E, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", OPTIONS)
def test_route_and_its_gradient_match_torch(
    name: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    options = OPTIONS[name]
    logits = logits_of(generator, dtype).requires_grad_()
    expected_logits = logits.detach().double().requires_grad_()
    idx, weights = reference.route(expected_logits, K, **options)
    routing = functional.route(logits, K, **options)

    assert routing.topk_idx.dtype == torch.int32
    assert torch.equal(routing.topk_idx.long(), idx)
    assert torch.equal(routing.tokens_per_expert.long(), torch.bincount(idx.flatten(), minlength=E))
    assert routing.topk_weights.dtype == dtype
    grad = torch.randn(T, K, generator=generator, dtype=torch.float64)
    routing.topk_weights.backward(grad.to(dtype))
    weights.backward(grad.to(dtype).double())
    assert_close([routing.topk_weights, logits.grad], [weights, expected_logits.grad])


@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.float64])
def test_selection_bias_moves_the_choice_only(
    bias_dtype: torch.dtype, generator: torch.Generator
) -> None:
    logits = logits_of(generator, torch.float64)
    bias = torch.randn(E, generator=generator, dtype=torch.float64).to(bias_dtype)
    options = {"score": "sigmoid", "normalize": True, "selection_bias": bias}
    idx, weights = reference.route(logits, K, **options)
    routing = functional.route(logits, K, **options)
    assert torch.equal(routing.topk_idx.long(), idx)
    assert_close([routing.topk_weights], [weights])
    assert not torch.equal(idx, reference.route(logits, K, score="sigmoid")[0])


def test_sinkhorn_with_one_expert_takes_the_sigmoid(generator: torch.Generator) -> None:
    logits = logits_of(generator, torch.float64)
    idx, weights = reference.route(logits, 1, score="sinkhorn")
    routing = functional.route(logits, 1, score="sinkhorn")
    assert torch.equal(routing.topk_idx.long(), idx)
    assert_close([routing.topk_weights], [weights])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_f32(
    half: torch.dtype, generator: torch.Generator
) -> None:
    logits = logits_of(generator, half).requires_grad_()
    single = logits.detach().float().requires_grad_()
    routing = functional.route(logits, K, normalize=True)
    expected = functional.route(single, K, normalize=True)
    assert_same_bits(routing.topk_idx, expected.topk_idx)
    assert_same_bits(routing.topk_weights.detach(), expected.topk_weights.detach())
    grad = torch.randn(T, K, generator=generator)
    routing.topk_weights.backward(grad)
    expected.topk_weights.backward(grad)
    assert logits.grad.dtype == half
    assert torch.equal(logits.grad, single.grad.to(half))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck(name: str, generator: torch.Generator) -> None:
    logits = logits_of(generator, torch.float64)[:4].clone().requires_grad_()
    if OPTIONS[name].get("score") == "sinkhorn" and OPTIONS[name].get("training", True):
        # The choice depends on all tokens, so a step of gradcheck might move it.
        logits = (logits.detach() * 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: functional.route(v, K, **OPTIONS[name]).topk_weights, logits
    )


def test_ties_go_to_the_lowest_index() -> None:
    routing = functional.route(torch.zeros(3, 5), 2)
    assert routing.topk_idx.tolist() == [[0, 1]] * 3


def test_all_experts_and_no_tokens(generator: torch.Generator) -> None:
    logits = logits_of(generator, torch.float64)
    everyone = functional.route(logits, E)
    assert_close([everyone.topk_weights.sum(1)], [torch.ones(T, dtype=torch.float64)])
    nobody = logits[:0].clone().requires_grad_()
    routing = functional.route(nobody, K)
    assert routing.topk_idx.shape == (0, K)
    assert routing.tokens_per_expert.tolist() == [0] * E
    routing.topk_weights.sum().backward()
    assert nobody.grad.shape == (0, E)


def test_strided_logits_are_read_as_they_look(generator: torch.Generator) -> None:
    logits = logits_of(generator, torch.float32).T.contiguous().T
    assert not logits.is_contiguous()
    expected = functional.route(logits.contiguous(), K)
    assert_same_bits(functional.route(logits, K).topk_weights, expected.topk_weights)


def test_z_loss_and_its_gradient_match_torch(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    logits = logits_of(generator, dtype).requires_grad_()
    expected_logits = logits.detach().double().requires_grad_()
    loss = functional.router_z_loss(logits)
    expected = torch.logsumexp(expected_logits, -1).square().mean()
    assert loss.shape == ()
    (loss * 3).backward()
    (expected * 3).backward()
    assert_close([loss, logits.grad], [expected, expected_logits.grad])


def test_z_loss_of_no_tokens_is_zero() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = functional.router_z_loss(logits)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == (0, 4)


def test_jitter_stays_within_epsilon_and_repeats(generator: torch.Generator) -> None:
    x = torch.rand(200, 50, generator=generator, dtype=torch.float64) + 1
    noise = functional.jitter(x, 0.1, seed=7) / x
    assert noise.min() >= 0.9 - 1e-12 and noise.max() <= 1.1 + 1e-12
    assert abs(noise.mean() - 1) < 3 * (0.1 / 3**0.5) / 100
    assert noise.min() < 0.901 and noise.max() > 1.099
    assert_same_bits(functional.jitter(x, 0.1, seed=7), functional.jitter(x, 0.1, seed=7))
    assert not torch.equal(functional.jitter(x, 0.1, seed=8), functional.jitter(x, 0.1, seed=7))
    assert_same_bits(functional.jitter(x, 0.0, seed=2**64 - 1), x)


def test_jitter_gradient_is_the_noise(generator: torch.Generator) -> None:
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: functional.jitter(v, 0.3, 11), x)


@pytest.mark.parametrize("name", OPTIONS)
def test_numpy_gives_the_same_bits(name: str, generator: torch.Generator) -> None:
    logits = logits_of(generator, torch.float32).requires_grad_()
    grad = torch.randn(T, K, generator=generator)
    expected = functional.route(logits, K, **OPTIONS[name])
    expected.topk_weights.backward(grad)
    array = logits.detach().numpy()
    routing = functional.route(array, K, **OPTIONS[name])
    assert isinstance(routing.topk_weights, numpy.ndarray)
    numpy.testing.assert_array_equal(routing.topk_idx, expected.topk_idx)
    numpy.testing.assert_array_equal(routing.topk_weights, expected.topk_weights.detach())
    numpy.testing.assert_array_equal(routing.tokens_per_expert, expected.tokens_per_expert)
    grad_logits = functional.route_backward(grad.numpy(), array, routing.topk_idx, **OPTIONS[name])
    numpy.testing.assert_array_equal(grad_logits, logits.grad)


@pytest.mark.parametrize("options", [{}, {"score": "sigmoid", "normalize": True, "scale": 2.0}])
def test_compiles_without_a_break(generator: torch.Generator, options: dict) -> None:
    bias = torch.randn(8, generator=generator)

    def run(logits: torch.Tensor) -> torch.Tensor:
        routing = functional.route(logits * 2, 3, selection_bias=bias, **options)
        return routing.topk_weights.sin() + routing.topk_idx + routing.tokens_per_expert[:3]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (5, 9):
        logits = torch.randn(tokens, 8, generator=generator).requires_grad_()
        found = []
        for call in (compiled, run):
            y = call(logits)
            found += [y.detach(), *torch.autograd.grad(y.square().sum(), logits)]
        assert_same_bits(found[0], found[2])
        assert_same_bits(found[1], found[3])
