"""The router's product."""

from __future__ import annotations

import pytest
import torch
from support.cuda import kernels, lab
from support.cuda.lab import assert_close, assert_same_bits, launch, long, poisoned

pytestmark = lab.needs_gpu

TYPES = [torch.float32, torch.bfloat16, torch.float16]
# T, E, H: each number of experts a block takes, and more; rows of whole vectors, and others.
SHAPES = [
    (1, 1, 8),
    (1, 7, 24),
    (31, 8, 256),
    (515, 8, 2048),
    (515, 60, 24),
    (515, 128, 256),
    (515, 288, 2048),
    (31, 288, 7168),
    (31, 60, 7168),
    (515, 32, 7168),
    (31, 1000, 8),
    (1, 7, 1),
    (31, 60, 129),
    (515, 7, 1027),
    (515, 128, 250),
    (31, 288, 333),
    (31, 5, 0),
]


def router_logits(x, router, is_aligned=None):
    (num_tokens, depth), num_experts = x.shape, router.shape[0]
    columns = next((n for n in (16, 32, 64, 128) if n >= num_experts), 128)
    stage_bytes = 16 * (32 + columns) * (8 if columns > 64 else 16)
    if is_aligned is None:
        is_aligned = lab.vector_of(x.dtype, depth) > 1
    logits = poisoned(num_tokens, num_experts, dtype=x.dtype)
    launch(
        *("router_logits", "router_logits"),
        (-(-num_tokens // 32) * -(-num_experts // columns),),
        256,
        (x, router, logits, long(num_tokens), num_experts, long(depth)),
        shared_bytes=stage_bytes * min(96 * 1024 // stage_bytes, 6),
        ELEMENT=kernels.CODES[x.dtype],
        ALIGNED=int(is_aligned),
        COLUMNS=columns,
    )
    return logits


def problem(num_tokens, num_experts, depth, dtype):
    x = lab.random(num_tokens, depth, dtype=dtype)
    return x, lab.random(num_experts, depth, dtype=dtype, seed=1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits(shape, dtype) -> None:
    x, router = problem(*shape, dtype)
    logits = router_logits(x, router)
    assert_close(logits, x.double() @ router.double().T)
    assert_same_bits(router_logits(x, router), logits)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_experts", [8, 60, 128])
def test_many_blocks(num_experts, dtype) -> None:
    """More of them than a device takes at once."""
    x, router = problem(20_000, num_experts, 520, dtype)
    logits = router_logits(x, router)
    assert_close(logits, x.double() @ router.double().T)
    assert_same_bits(router_logits(x, router), logits)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("num_experts", "depth"), [(8, 264), (60, 129), (128, 1032), (288, 40)])
def test_a_row_depends_on_itself_alone(num_experts, depth, dtype) -> None:
    x, router = problem(515, num_experts, depth, dtype)
    logits = router_logits(x, router)
    for token in (0, 17, 63, 514):
        assert_same_bits(router_logits(x[token : token + 1].clone(), router), logits[token][None])
    elsewhere = torch.cat([x[:7], x])
    assert_same_bits(router_logits(elsewhere, router)[7:], logits)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_experts", [8, 60, 288])
def test_memory_that_is_not_aligned_gives_the_same_bits(num_experts, dtype) -> None:
    x, router = problem(70, num_experts, 264, dtype)
    memory = torch.empty(x.numel() + 1, dtype=dtype, device=lab.DEVICE)
    moved = memory[1:].view(x.shape).copy_(x)
    assert moved.data_ptr() % 16 != 0
    assert_same_bits(router_logits(moved, router, is_aligned=False), router_logits(x, router))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(bad, dtype) -> None:
    x, router = problem(70, 60, 264, dtype)
    clean = router_logits(x, router)
    spoiled_x, spoiled_router = x.clone(), router.clone()
    spoiled_x[33, 263] = bad
    spoiled_router[17, 0] = bad
    logits = router_logits(spoiled_x, spoiled_router)
    kept_rows, kept_columns = torch.arange(70) != 33, torch.arange(60) != 17
    assert_same_bits(logits[kept_rows][:, kept_columns], clean[kept_rows][:, kept_columns])
    assert not logits[33].isfinite().any()
    assert not logits[:, 17].isfinite().any()
