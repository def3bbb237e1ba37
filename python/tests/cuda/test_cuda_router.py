"""The router, its z-loss and its jitter, and counts."""

from __future__ import annotations

import ctypes

import pytest
import torch
from support import reference
from support.cuda import kernels, lab
from support.cuda.lab import assert_close, assert_same_bits, launch, long, poisoned

pytestmark = lab.needs_gpu

SOFTMAX, TOPK_SOFTMAX, SIGMOID, SINKHORN = 1, 2, 3, 4
SCORES = {"softmax": 1, "topk_softmax": 2, "sigmoid": 3, "sinkhorn": 4}
GROUP_SCORES = {None: 0, "max": 1, "top2_sum": 2}
FAULT_TOPK_IDX, FAULT_LOGITS = 1, 2
TYPES = [torch.float32, torch.bfloat16, torch.float16]

OPTIONS = {
    "softmax": {},
    "softmax_normalized": {"normalize": True, "scale": 2.5},
    "topk_softmax": {"score": "topk_softmax"},
    "sigmoid": {"score": "sigmoid"},
    "sigmoid_epsilon": {"score": "sigmoid", "normalize": True, "normalize_epsilon": 1e-2},
    "groups_max": {"group_score": "max", "num_groups": 4, "topk_groups": 2},
    "groups_top2": {
        "score": "sigmoid",
        "group_score": "top2_sum",
        "num_groups": 4,
        "topk_groups": 2,
        "normalize": True,
        "scale": 0.5,
    },
    "sinkhorn_eval": {"score": "sinkhorn", "training": False},
}
# T, E, K; K experts fit into half of the experts.
SHAPES = [(1, 8, 2), (33, 12, 3), (130, 128, 8), (17, 256, 8), (9, 1000, 40)]


class RouteConfig(ctypes.Structure):
    _fields_ = (
        ("score", ctypes.c_int),
        ("top_k", ctypes.c_int),
        ("normalize", ctypes.c_int),
        ("normalize_epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("group_score", ctypes.c_int),
        ("num_groups", ctypes.c_int),
        ("topk_groups", ctypes.c_int),
    )


def config_of(top_k: int, options: dict) -> RouteConfig:
    return RouteConfig(
        SCORES[options.get("score", "softmax")],
        top_k,
        int(options.get("normalize", False)),
        options.get("normalize_epsilon", 1e-20),
        options.get("scale", 1.0),
        GROUP_SCORES[options.get("group_score")],
        options.get("num_groups", 1),
        options.get("topk_groups", 1),
    )


def defines_of(logits: torch.Tensor) -> dict[str, int]:
    per_lane = next(n for n in (1, 2, 4, 8, 16, 32) if 32 * n >= logits.shape[1])
    return {"ELEMENT": kernels.CODES[logits.dtype], "PER_LANE": per_lane}


def route(logits, top_k, options, bias=None):
    """Returns topk_idx, topk_weights, tokens_per_expert and the fault."""
    num_tokens, num_experts = logits.shape
    topk_idx = poisoned(num_tokens, top_k, dtype=torch.int32)
    topk_weights = poisoned(num_tokens, top_k, dtype=torch.float32)
    counts = torch.zeros(num_experts, dtype=torch.int32, device=lab.DEVICE)
    fault = lab.fault_word()
    outputs = (topk_idx, topk_weights, counts)
    launch(
        *("route", "route", (3,), 64),
        (logits, bias, *outputs, long(num_tokens), num_experts, config_of(top_k, options), fault),
        shared_bytes=4 * num_experts * (1 + 4 * 2),
        **defines_of(logits),
    )
    return (*outputs, fault.item())


def route_backward(logits, topk_idx, grad_weights, options):
    """Returns grad_logits and the fault."""
    num_tokens, num_experts = logits.shape
    grad_logits = poisoned(num_tokens, num_experts, dtype=logits.dtype)
    config, fault = config_of(topk_idx.shape[1], options), lab.fault_word()
    launch(
        *("route_backward", "route_backward", (3,), 64),
        (logits, topk_idx, grad_weights, grad_logits, long(num_tokens), num_experts, config, fault),
        shared_bytes=4 * num_experts * 5 * 2,
        **defines_of(logits),
    )
    return grad_logits, fault.item()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_route_and_its_gradient(shape, name, dtype) -> None:
    num_tokens, num_experts, top_k = shape
    options = OPTIONS[name]
    logits = distinct_logits(num_tokens, num_experts, dtype)
    wide = logits.double().requires_grad_()
    expected_idx, expected_weights = reference.route(wide, top_k, **options)
    topk_idx, topk_weights, counts, fault = route(logits, top_k, options)
    assert torch.equal(topk_idx.long(), expected_idx)
    assert_close(topk_weights, expected_weights)
    assert torch.equal(counts.long(), torch.bincount(topk_idx.flatten(), minlength=num_experts))
    assert fault == 0

    # Large, for f16 to hold the smallest gradients in full.
    grad = 256 * lab.random(num_tokens, top_k, dtype=torch.float32, seed=1)
    expected_weights.backward(grad.double())
    grad_logits, fault = route_backward(logits, topk_idx, grad, options)
    assert_close(grad_logits, wide.grad)
    assert fault == 0
    assert_same_bits(route(logits, top_k, options)[1], topk_weights)
    assert_same_bits(route_backward(logits, topk_idx, grad, options)[0], grad_logits)


def distinct_logits(num_tokens: int, num_experts: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits from 0 to 8 whose scores differ in all types, so that one choice is right."""
    generator = torch.Generator().manual_seed(num_experts)
    order = torch.rand(num_tokens, num_experts, generator=generator).argsort(-1)
    step = order.double() * (1024 // num_experts)
    if dtype == torch.bfloat16:
        # It tells 128 numbers apart between powers of two.
        logits = torch.exp2(torch.floor(step / 128)) * (1 + step % 128 / 128) / 32
    else:
        logits = step / 128
    return logits.to(dtype).to(lab.DEVICE)


def test_no_tokens() -> None:
    logits = lab.random(0, 8, dtype=torch.float32)
    topk_idx, _, counts, fault = route(logits, 2, {})
    assert counts.tolist() == [0] * 8
    assert fault == 0
    grad = lab.random(0, 2, dtype=torch.float32)
    assert route_backward(logits, topk_idx, grad, {})[1] == 0


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "groups_top2"])
def test_selection_bias_moves_the_choice_only(name) -> None:
    logits = lab.random(40, 16, dtype=torch.float32)
    bias = lab.random(16, dtype=torch.float32, seed=1)
    topk_idx, topk_weights, _, _ = route(logits, 4, OPTIONS[name], bias)
    options = {**OPTIONS[name], "selection_bias": bias.double()}
    expected_idx, expected_weights = reference.route(logits.double(), 4, **options)
    assert torch.equal(topk_idx.long(), expected_idx)
    assert_close(topk_weights, expected_weights)
    assert not torch.equal(topk_idx, route(logits, 4, OPTIONS[name])[0])


@pytest.mark.parametrize("num_experts", [5, 64, 1024])
def test_ties_go_to_the_lowest_index(num_experts) -> None:
    logits = torch.zeros(3, num_experts, device=lab.DEVICE)
    assert route(logits, 4, {})[0].tolist() == [[0, 1, 2, 3]] * 3
    logits[:, 3] = 1
    assert route(logits, 3, {})[0].tolist() == [[3, 0, 1]] * 3


def test_groups_of_equal_scores_go_to_the_lowest() -> None:
    options = {"group_score": "max", "num_groups": 4, "topk_groups": 2}
    logits = torch.zeros(1, 16, device=lab.DEVICE)
    assert route(logits, 8, options)[0].tolist() == [list(range(8))]


def test_all_experts_are_chosen() -> None:
    logits = lab.random(7, 33, dtype=torch.float32)
    topk_idx, topk_weights, counts, _ = route(logits, 33, {})
    assert torch.equal(topk_idx.sort(-1).values.cpu(), torch.arange(33).int().expand(7, -1))
    assert_close(topk_weights.double().sum(-1).float(), torch.ones(7))
    assert counts.tolist() == [7] * 33


@pytest.mark.parametrize("score", ["softmax", "topk_softmax", "sigmoid"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "all -inf"])
def test_bad_logits_report_a_fault_and_stay_in_bounds(bad, score) -> None:
    logits = lab.random(6, 40, dtype=torch.float32)
    clean = route(logits, 5, {"score": score})
    spoiled = logits.clone()
    if bad == "all -inf":
        spoiled[2] = -torch.inf
    else:
        spoiled[2, 11] = bad
    topk_idx, topk_weights, counts, fault = route(spoiled, 5, {"score": score})
    assert fault == FAULT_LOGITS
    assert topk_idx.min() >= 0
    assert topk_idx.max() < 40
    assert counts.sum() == 30
    others = [0, 1, 3, 4, 5]
    assert_same_bits(topk_idx[others], clean[0][others])
    assert_same_bits(topk_weights[others], clean[1][others])


def test_minus_infinity_is_the_last_choice() -> None:
    logits = torch.full((1, 6), -torch.inf, device=lab.DEVICE)
    logits[0, 4] = 1.0
    topk_idx, topk_weights, _, fault = route(logits, 3, {})
    assert topk_idx.tolist() == [[4, 0, 1]]
    assert topk_weights.tolist() == [[1, 0, 0]]
    assert fault == 0


def test_a_choice_of_no_expert_has_no_gradient() -> None:
    logits = lab.random(2, 8, dtype=torch.float32)
    grad = lab.random(2, 2, dtype=torch.float32, seed=1)
    topk_idx = torch.tensor([[1, 2], [8, -1]], dtype=torch.int32, device=lab.DEVICE)
    grad_logits, fault = route_backward(logits, topk_idx, grad, {})
    assert fault == FAULT_TOPK_IDX
    assert torch.equal(grad_logits[1], torch.zeros_like(grad_logits[1]))
    assert grad_logits[0].abs().min() > 0


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("num_tokens", "num_experts"), [(0, 4), (1, 1), (45, 12), (130, 128)])
def test_z_loss(num_tokens, num_experts, dtype) -> None:
    logits = lab.random(num_tokens, num_experts, dtype=dtype)
    loss = poisoned(1, dtype=torch.float32)
    element = kernels.CODES[dtype]
    arguments = (logits, loss, long(num_tokens), num_experts)
    launch("z_loss", "z_loss", (1,), 1024, arguments, shared_bytes=256, ELEMENT=element)
    wide = logits.double().requires_grad_()
    expected = torch.logsumexp(wide, -1).square().sum() / max(num_tokens, 1)
    assert_close(loss, expected.detach().view(1))

    grad_loss = torch.tensor([3.0], device=lab.DEVICE)
    grad_logits = poisoned(num_tokens, num_experts, dtype=dtype)
    arguments = (logits, grad_loss, grad_logits, long(num_tokens), num_experts)
    launch("z_loss", "z_loss_backward", (2,), 256, arguments, ELEMENT=element)
    (expected * 3).backward()
    assert_close(grad_logits, wide.grad)


@pytest.mark.parametrize("dtype", TYPES)
def test_jitter_is_a_hash_of_seed_and_index(dtype) -> None:
    epsilon, seed = 0.125, 0x1234_5678_9ABC_DEF0
    x = lab.random(3, 700, dtype=dtype)
    y = poisoned(3, 700, dtype=dtype)
    arguments = (x, y, long(x.numel()), ctypes.c_double(epsilon), ctypes.c_ulonglong(seed))
    launch("jitter", "jitter", (2,), 256, arguments, ELEMENT=kernels.CODES[dtype])
    noise = [1 - epsilon + 2 * epsilon * uniform(seed, index) for index in range(x.numel())]
    factors = torch.tensor(noise, dtype=torch.float64).float().view(3, 700).to(lab.DEVICE)
    assert_same_bits(y, (x.float() * factors).to(dtype))


@pytest.mark.parametrize("count", [1, 256, 257])
def test_counts_are_cleared(count) -> None:
    counts = poisoned(count, dtype=torch.int32)
    launch("clear", "clear", (-(-count // 256),), 256, (counts, count))
    assert not counts.any()


def uniform(seed: int, index: int) -> float:
    """SplitMix64, as its authors write it."""
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)
