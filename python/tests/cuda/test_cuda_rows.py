"""Permute, unpermute, the gradient of the weights, and sums over rows."""

from __future__ import annotations

import ctypes

import pytest
import torch
from support.cuda import kernels, lab
from support.cuda.lab import assert_close, assert_same_bits, group_sizes, launch, long, poisoned

pytestmark = lab.needs_gpu

TYPES = [torch.float32, torch.bfloat16, torch.float16]
WEIGHTS = [None, *TYPES]
# T, K, H: with and without whole vectors, and more than a segment.
SHAPES = [(0, 2, 8), (1, 1, 8), (1, 3, 7), (13, 8, 264), (29, 5, 1100), (5, 2, 3)]


def routing(num_tokens: int, top_k: int, *, dropped: bool) -> tuple[torch.Tensor, int]:
    """row_of_slot [T, K], and the rows in use."""
    count = num_tokens * top_k
    generator = torch.Generator().manual_seed(count)
    rows = torch.randperm(count, generator=generator).int()
    in_use = count - count // 4 if dropped else count
    return torch.where(rows < in_use, rows, -1).view(num_tokens, top_k).to(lab.DEVICE), in_use


def defines_of(dtype: torch.dtype, weight: torch.dtype | None, width: int) -> dict[str, int]:
    vector = lab.vector_of(dtype, width)
    return {
        "ELEMENT": kernels.CODES[dtype],
        "WEIGHT": kernels.CODES[weight],
        "VECTOR": vector,
    }


def segments(width: int, vector: int, per_lane: int) -> int:
    return max(1, -(-width // vector // (32 * per_lane)))


def weights_of(shape: torch.Size, dtype: torch.dtype | None) -> torch.Tensor | None:
    return None if dtype is None else lab.random(*shape, dtype=dtype, seed=3)


def permute(x, row_of_slot, weights, num_rows):
    num_tokens, top_k = row_of_slot.shape
    width = x.shape[1]
    defines = defines_of(x.dtype, weights.dtype if weights is not None else None, width)
    rows = poisoned(num_rows, width, dtype=x.dtype)
    vectors = width // defines["VECTOR"]
    grid = (3, segments(width, defines["VECTOR"], 4))
    arguments = (x, row_of_slot, weights, rows, long(num_tokens), top_k, num_rows, vectors)
    launch("permute", "permute", grid, 256, arguments, **defines)
    return rows


def unpermute(rows, row_of_slot, weights):
    (num_tokens, top_k), (num_rows, width) = row_of_slot.shape, rows.shape
    defines = defines_of(rows.dtype, weights.dtype if weights is not None else None, width)
    y = poisoned(num_tokens, width, dtype=rows.dtype)
    vectors = width // defines["VECTOR"]
    grid = (3, segments(width, defines["VECTOR"], 2))
    arguments = (rows, row_of_slot, weights, y, long(num_tokens), top_k, num_rows, vectors)
    launch("unpermute", "unpermute", grid, 256, arguments, **defines)
    return y


def slot_dot(x, rows, row_of_slot, weight_dtype):
    (num_tokens, top_k), (num_rows, width) = row_of_slot.shape, rows.shape
    defines = defines_of(rows.dtype, weight_dtype, width)
    out = poisoned(num_tokens, top_k, dtype=weight_dtype)
    count = long(num_tokens * top_k)
    arguments = (x, rows, row_of_slot, out, count, top_k, num_rows, width // defines["VECTOR"])
    launch("slot_dot", "slot_dot", (3,), 256, arguments, **defines)
    return out


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("weight_dtype", WEIGHTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_permute(shape, dtype, weight_dtype, dropped) -> None:
    num_tokens, top_k, width = shape
    row_of_slot, in_use = routing(num_tokens, top_k, dropped=dropped)
    x = lab.random(num_tokens, width, dtype=dtype)
    weights = weights_of(row_of_slot.shape, weight_dtype)
    rows = permute(x, row_of_slot, weights, in_use)
    copies = x.unsqueeze(1).expand(-1, top_k, -1)
    if weights is not None:
        copies = (copies.float() * weights.float().unsqueeze(-1)).to(dtype)
    expected = torch.empty_like(rows)
    used = row_of_slot >= 0
    expected[row_of_slot[used].long()] = copies[used]
    assert_same_bits(rows, expected)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("weight_dtype", WEIGHTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_unpermute(shape, dtype, weight_dtype, dropped) -> None:
    num_tokens, top_k, width = shape
    row_of_slot, in_use = routing(num_tokens, top_k, dropped=dropped)
    rows = lab.random(in_use, width, dtype=dtype)
    weights = weights_of(row_of_slot.shape, weight_dtype)
    y = unpermute(rows, row_of_slot, weights)
    expected = torch.zeros(num_tokens, width, dtype=torch.float64, device=lab.DEVICE)
    for k in range(top_k):
        used = row_of_slot[:, k] >= 0
        part = rows[row_of_slot[used, k].long()].double()
        if weights is not None:
            part = part * weights[used, k].double().unsqueeze(-1)
        expected[used] += part
    assert_close(y, expected)
    assert_same_bits(y, unpermute(rows, row_of_slot, weights))


def test_unpermute_skips_rows_of_nobody() -> None:
    """A slot that was dropped adds nothing, not even NaN."""
    row_of_slot = torch.tensor([[0, -1]], dtype=torch.int32, device=lab.DEVICE)
    rows = lab.random(1, 8, dtype=torch.float32)
    weights = torch.tensor([[1.0, float("nan")]], device=lab.DEVICE)
    assert_same_bits(unpermute(rows, row_of_slot, weights), rows)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("weight_dtype", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_slot_dot(shape, dtype, weight_dtype, dropped) -> None:
    num_tokens, top_k, width = shape
    row_of_slot, in_use = routing(num_tokens, top_k, dropped=dropped)
    x, rows = lab.random(num_tokens, width, dtype=dtype), lab.random(in_use, width, dtype=dtype)
    out = slot_dot(x, rows, row_of_slot, weight_dtype)
    used = row_of_slot >= 0
    expected = torch.zeros(row_of_slot.shape, dtype=torch.float64, device=lab.DEVICE)
    copies = x.unsqueeze(1).expand(-1, top_k, -1)[used].double()
    expected[used] = (copies * rows[row_of_slot[used].long()].double()).sum(-1)
    assert_close(out, expected)
    assert_same_bits(out, slot_dot(x, rows, row_of_slot, weight_dtype))


def test_slot_dot_of_rows() -> None:
    """Without a map, each row has its own slot."""
    left, right = (lab.random(37, 264, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    out = poisoned(37, 1, dtype=torch.float32)
    defines = defines_of(torch.bfloat16, torch.float32, 264)
    arguments = (left, right, None, out, long(37), 1, 37, 264 // defines["VECTOR"])
    launch("slot_dot", "slot_dot", (3,), 256, arguments, **defines)
    assert_close(out, (left.double() * right.double()).sum(-1, keepdim=True))


@pytest.mark.parametrize("dtype", TYPES)
def test_scatter_to_rows(dtype) -> None:
    row_of_slot, in_use = routing(41, 3, dropped=True)
    values = lab.random(41, 3, dtype=dtype)
    values[row_of_slot < 0] = float("nan")
    rows = poisoned(in_use, 1, dtype=torch.float32)
    arguments = (values, row_of_slot, rows, long(41 * 3), in_use)
    weight = kernels.CODES[dtype]
    launch("scatter_to_rows", "scatter_to_rows", (1,), 256, arguments, WEIGHT=weight)
    expected = torch.empty_like(rows)
    used = row_of_slot >= 0
    expected[row_of_slot[used].long(), 0] = values[used].float()
    assert_same_bits(rows, expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_partials", [1, 6, 13])
def test_gather_from_rows(num_partials, dtype) -> None:
    row_of_slot, in_use = routing(41, 3, dropped=True)
    partials = lab.random(in_use, num_partials, dtype=torch.float32)
    out = poisoned(41, 3, dtype=dtype)
    arguments = (partials, row_of_slot, out, long(41 * 3), in_use, num_partials)
    weight = kernels.CODES[dtype]
    launch("gather_from_rows", "gather_from_rows", (2,), 256, arguments, WEIGHT=weight)
    expected = torch.zeros(41, 3, dtype=torch.float64, device=lab.DEVICE)
    used = row_of_slot >= 0
    expected[used] = partials[row_of_slot[used].long()].double().sum(-1)
    assert_close(out, expected)


def test_gather_from_rows_without_a_map() -> None:
    partials = lab.random(41, 6, dtype=torch.float32)
    out = poisoned(41, 1, dtype=torch.float32)
    arguments = (partials, None, out, long(41), 41, 6)
    launch("gather_from_rows", "gather_from_rows", (2,), 256, arguments, WEIGHT=kernels.F32)
    assert_close(out, partials.double().sum(-1, keepdim=True))


@pytest.mark.parametrize(("out_dtype", "accumulate"), [(None, 0), (torch.float32, 1)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("groups", [0, 4, 8])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [8, 7, 600])
def test_row_sum(width, dtype, groups, weighted, out_dtype, accumulate) -> None:
    counts = torch.tensor([3, 0, 70, 0, 1, 33])
    num_rows, num_groups = int(counts.sum()), counts.numel()
    rows = lab.random(num_rows, width, dtype=dtype)
    weights = lab.random(num_rows, dtype=torch.float32, seed=3) if weighted else None
    out_dtype = out_dtype or dtype
    before = lab.random(num_groups, width, dtype=out_dtype, seed=9)
    sizes = group_sizes(counts, groups)
    sums = poisoned(num_groups, width, dtype=out_dtype)
    if accumulate:
        sums.copy_(before)
    vector = lab.vector_of(dtype, width)
    columns = 32 if vector == 1 else 8
    launch(
        *("row_sum", "row_sum", (-(-width // vector // columns), num_groups), 256),
        (rows, sizes, weights, sums, long(num_rows), width // vector),
        ELEMENT=kernels.CODES[dtype],
        VECTOR=vector,
        GROUPS=groups,
        OUT=kernels.CODES[out_dtype],
        ACCUMULATE=accumulate,
        shared_bytes=256 * vector * ctypes.sizeof(ctypes.c_float),
    )
    scaled = rows.double() if weights is None else rows.double() * weights.double().unsqueeze(-1)
    expected = torch.stack([part.sum(0) for part in scaled.split(counts.tolist())])
    assert_close(sums, expected + before.double() if accumulate else expected)
