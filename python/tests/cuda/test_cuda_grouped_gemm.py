"""The portable grouped products."""

from __future__ import annotations

import pytest
import torch
from support.cuda import kernels, lab
from support.cuda.lab import assert_close, assert_same_bits, group_sizes, launch, long, poisoned

pytestmark = lab.needs_gpu

TYPES = [torch.float32, torch.bfloat16, torch.float16]
OUT_IN, IN_OUT = 1, 2
# Rows of each group, out, in.
SHAPES = [
    ([0, 0], 8, 8),
    ([1], 8, 16),
    ([3, 0, 5], 7, 5),
    ([0, 150, 0, 20], 136, 40),
    ([40, 1, 90], 129, 131),
]
THREADS = 256
SHARED_BYTES = 48 * 1024


def defines_of(dtype: torch.dtype, *widths: int) -> dict[str, int]:
    is_aligned = dtype.itemsize == 2 and lab.vector_of(dtype, *widths) == 8
    return {"ELEMENT": kernels.CODES[dtype], "ALIGNED": int(is_aligned)}


def grouped_gemm(rows, weights, layout, bias, counts, groups=0, blocks=3):
    num_rows, depth = rows.shape
    width = weights.shape[1] if layout == OUT_IN else weights.shape[2]
    out = poisoned(num_rows, width, dtype=rows.dtype)
    sizes = group_sizes(counts, groups)
    launch(
        *("portable_grouped_gemm", "portable_grouped_gemm", (blocks,), THREADS),
        (*(rows, weights, bias, sizes, out), len(counts), long(num_rows), width, depth),
        **defines_of(rows.dtype, width, depth),
        GROUPS=groups,
        LAYOUT=layout,
        shared_bytes=SHARED_BYTES,
    )
    return out


def weight_gradient(left, right, counts, groups=0, out_dtype=None, before=None):
    shape = (len(counts), left.shape[1], right.shape[1])
    out_dtype = out_dtype or left.dtype
    out = poisoned(*shape, dtype=out_dtype)
    if before is not None:
        out.copy_(before)
    sizes = group_sizes(counts, groups)
    launch(
        *("portable_weight_gradient", "portable_weight_gradient", (3,), THREADS),
        (left, right, sizes, out, len(counts), long(left.shape[0]), *shape[1:]),
        **defines_of(left.dtype, *shape[1:]),
        GROUPS=groups,
        OUT=kernels.CODES[out_dtype],
        ACCUMULATE=int(before is not None),
        shared_bytes=SHARED_BYTES,
    )
    return out


def problem(shape, dtype):
    counts, width, depth = shape
    rows = lab.random(sum(counts), depth, dtype=dtype)
    weights = lab.random(len(counts), width, depth, dtype=dtype, seed=1)
    return torch.tensor(counts), rows, weights


def products(rows, weights, bias, counts):
    """The reference in f64; weights [E, out, in]."""
    parts = zip(rows.double().split(counts.tolist()), weights.double(), strict=True)
    out = torch.cat([part @ weight.T for part, weight in parts])
    if bias is not None:
        out = out + bias.double().repeat_interleave(counts.to(bias.device), 0)
    return out


@pytest.mark.parametrize("groups", [0, 4, 8])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layout", [OUT_IN, IN_OUT])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_grouped_gemm(shape, dtype, layout, with_bias, groups) -> None:
    counts, rows, weights = problem(shape, dtype)
    bias = lab.random(*weights.shape[:2], dtype=dtype, seed=2) if with_bias else None
    stored = weights if layout == OUT_IN else weights.transpose(1, 2).contiguous()
    out = grouped_gemm(rows, stored, layout, bias, counts, groups)
    assert_close(out, products(rows, weights, bias, counts))
    again = grouped_gemm(rows, stored, layout, bias, counts, groups, blocks=1)
    assert_same_bits(again, out)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_gives_the_same_wherever_it_stands(dtype) -> None:
    counts, rows, weights = problem(([90, 60], 136, 40), dtype)
    out = grouped_gemm(rows, weights, OUT_IN, None, counts)
    order = torch.cat([torch.randperm(90), 90 + torch.randperm(60)]).to(lab.DEVICE)
    moved = grouped_gemm(rows[order], weights, OUT_IN, None, counts)
    assert_same_bits(moved, out[order])
    # Fewer rows before it: another tile, another warp.
    fewer = grouped_gemm(rows[37:], weights, OUT_IN, None, torch.tensor([53, 60]))
    assert_same_bits(fewer, out[37:])


@pytest.mark.parametrize("groups", [0, 4, 8])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weight_gradient(shape, dtype, groups) -> None:
    counts, rows, _ = problem(shape, dtype)
    grad_out = lab.random(rows.shape[0], shape[1], dtype=dtype, seed=3)
    gradient = weight_gradient(grad_out, rows, counts, groups)
    sizes = counts.tolist()
    parts = zip(grad_out.double().split(sizes), rows.double().split(sizes), strict=True)
    expected = torch.stack([grad.T @ row for grad, row in parts])
    assert_close(gradient, expected)
    empty = (counts == 0).to(lab.DEVICE)
    assert torch.equal(gradient[empty], torch.zeros_like(gradient[empty]))
    in_f32 = weight_gradient(grad_out, rows, counts, groups, torch.float32)
    assert_close(in_f32, expected)
    before = lab.random(*expected.shape, dtype=torch.float32, seed=4)
    added = weight_gradient(grad_out, rows, counts, groups, torch.float32, before)
    assert_same_bits(added, before + in_f32)


@pytest.mark.parametrize("dtype", TYPES)
def test_nan_stays_with_its_group(dtype) -> None:
    counts, rows, weights = problem(([20, 30, 9], 24, 40), dtype)
    grad_out = lab.random(rows.shape[0], 24, dtype=dtype, seed=3)
    clean = weight_gradient(grad_out, rows, counts)
    out = grouped_gemm(rows, weights, OUT_IN, None, counts)
    for tensor in (rows, grad_out):
        tensor[20:50] = float("nan")
    spoiled = weight_gradient(grad_out, rows, counts)
    assert spoiled[1].isnan().all()
    assert_same_bits(spoiled[[0, 2]], clean[[0, 2]])
    weights[1] = float("nan")
    spoiled_out = grouped_gemm(rows, weights, OUT_IN, None, counts)
    assert spoiled_out[20:50].isnan().all()
    assert_same_bits(spoiled_out[:20], out[:20])
    assert_same_bits(spoiled_out[50:], out[50:])


def test_dropped_rows_are_left_alone() -> None:
    """Offsets that end before the rows do."""
    counts, rows, weights = problem(([20, 30], 24, 40), torch.bfloat16)
    out = grouped_gemm(rows, weights, OUT_IN, None, torch.tensor([20, 11]))
    assert out[31:].isnan().all()
    assert_close(out[:31], products(rows, weights, None, counts)[:31])


@pytest.mark.parametrize("sizes", [[1000, -5, 7], [1 << 40, 1 << 62, -(1 << 62)]])
def test_bad_counts_stay_in_bounds(sizes) -> None:
    rows = lab.random(50, 40, dtype=torch.bfloat16)
    weights = lab.random(3, 24, 40, dtype=torch.bfloat16)
    out = grouped_gemm(rows, weights, OUT_IN, None, torch.tensor(sizes), 8)
    assert_close(out, products(rows, weights, None, torch.tensor([50, 0, 0])))
