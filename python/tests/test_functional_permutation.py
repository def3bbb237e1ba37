"""Permutation and grouped GEMM against plain torch."""

from __future__ import annotations

import numpy
import pytest
import torch
from support import reference
from support.compare import assert_close, assert_same_bits

from autoep import functional

T, H, E, K = 17, 6, 5, 2


@pytest.fixture(params=[torch.int32, torch.int64], ids=["i32", "i64"])
def topk_idx(request: pytest.FixtureRequest, generator: torch.Generator) -> torch.Tensor:
    scores = torch.rand(T, E - 1, generator=generator)  # the last expert gets no token
    return scores.topk(K).indices.to(request.param)


def test_permute_matches_torch(
    topk_idx: torch.Tensor, dtype: torch.dtype, generator: torch.Generator
) -> None:
    x = torch.randn(T, H, generator=generator, dtype=dtype, requires_grad=True)
    permuted = functional.permute(x, topk_idx, E)
    rows, row_of_slot, counts = reference.permute(x.detach(), topk_idx, E)
    assert_same_bits(permuted.rows.detach(), rows)
    assert torch.equal(permuted.row_of_slot.long(), row_of_slot)
    assert torch.equal(permuted.tokens_per_expert.long(), counts)

    grad = torch.randn(T * K, H, generator=generator, dtype=dtype)
    permuted.rows.backward(grad)
    assert_close([x.grad], [reference.unpermute(grad.double(), row_of_slot, None)])


@pytest.mark.parametrize("weights_dtype", [None, torch.float32, torch.float64])
def test_unpermute_matches_torch(
    weights_dtype: torch.dtype | None,
    topk_idx: torch.Tensor,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> None:
    rows = torch.randn(T * K, H, generator=generator, dtype=dtype, requires_grad=True)
    row_of_slot = functional.sort_by_expert(topk_idx, E)[0]
    weights = None
    if weights_dtype is not None:
        weights = torch.rand(T, K, generator=generator).to(weights_dtype).requires_grad_()
    expected_rows = rows.detach().double().requires_grad_()
    expected_weights = None
    if weights is not None:
        expected_weights = weights.detach().double().requires_grad_()
    y = functional.unpermute(rows, row_of_slot, weights)
    expected = reference.unpermute(expected_rows, row_of_slot, expected_weights)
    grad = torch.randn(T, H, generator=generator, dtype=dtype)
    y.backward(grad)
    expected.backward(grad.double())
    assert_close([y, rows.grad], [expected, expected_rows.grad])
    if weights is not None and dtype == weights_dtype:
        assert_close([weights.grad], [expected_weights.grad])


def test_gradcheck_of_the_round_trip(topk_idx: torch.Tensor, generator: torch.Generator) -> None:
    x = torch.randn(T, H, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(T, K, generator=generator, dtype=torch.float64, requires_grad=True)

    def round_trip(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        permuted = functional.permute(x, topk_idx, E)
        return functional.unpermute(permuted.rows, permuted.row_of_slot, weights)

    assert torch.autograd.gradcheck(round_trip, (x, weights))


def test_bf16_rows_travel_unchanged(topk_idx: torch.Tensor, generator: torch.Generator) -> None:
    x = torch.randn(T, H, generator=generator).bfloat16()
    permuted = functional.permute(x, topk_idx, E)
    rows, _, _ = reference.permute(x, topk_idx, E)
    assert torch.equal(permuted.rows, rows)
    back = functional.unpermute(permuted.rows, permuted.row_of_slot)
    assert torch.equal(back, (x.float() * K).bfloat16())


def test_no_tokens() -> None:
    x = torch.zeros(0, H, requires_grad=True)
    permuted = functional.permute(x, torch.zeros(0, K, dtype=torch.int64), E)
    y = functional.unpermute(permuted.rows, permuted.row_of_slot, torch.zeros(0, K))
    y.sum().backward()
    assert y.shape == (0, H)
    assert x.grad.shape == (0, H)
    assert permuted.tokens_per_expert.tolist() == [0] * E


def test_numpy_permutes_alike(generator: torch.Generator) -> None:
    x = torch.randn(T, H, generator=generator).numpy()
    idx = torch.rand(T, E, generator=generator).topk(K).indices.numpy()
    weights = torch.rand(T, K, generator=generator).numpy()
    permuted = functional.permute(x, idx, E)
    y = functional.unpermute(permuted.rows, permuted.row_of_slot, weights)
    expected_x = torch.from_numpy(x).requires_grad_()
    expected_weights = torch.from_numpy(weights).requires_grad_()
    expected = functional.permute(expected_x, torch.from_numpy(idx), E)
    expected_rows = expected.rows
    expected_rows.retain_grad()
    expected_y = functional.unpermute(expected_rows, expected.row_of_slot, expected_weights)
    numpy.testing.assert_array_equal(y, expected_y.detach())

    grad = torch.randn(T, H, generator=generator)
    expected_y.backward(grad)
    grad_rows, grad_weights = functional.unpermute_backward(
        grad.numpy(), permuted.rows, permuted.row_of_slot, weights
    )
    numpy.testing.assert_array_equal(grad_rows, expected_rows.grad)
    numpy.testing.assert_array_equal(grad_weights, expected_weights.grad)
    grad_x = functional.permute_backward(grad_rows, permuted.row_of_slot)
    numpy.testing.assert_array_equal(grad_x, expected_x.grad)


GROUPS = {"even": [3, 3, 3], "empty": [0, 9, 0, 0, 4], "ends": [5, 0, 6], "none": [0, 0]}


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("groups", GROUPS)
def test_grouped_gemm_matches_torch(
    groups: str, layout: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    counts = GROUPS[groups]
    shape = (len(counts), 7, H) if layout == "out_in" else (len(counts), H, 7)
    rows = torch.randn(sum(counts), H, generator=generator, dtype=dtype, requires_grad=True)
    weights = torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)
    expected_rows = rows.detach().double().requires_grad_()
    expected_weights = weights.detach().double().requires_grad_()
    out = functional.grouped_gemm(rows, weights, torch.tensor(counts), layout=layout)
    expected = reference.grouped_gemm(expected_rows, expected_weights, counts, layout)
    grad = torch.randn(sum(counts), 7, generator=generator, dtype=dtype)
    out.backward(grad)
    expected.backward(grad.double())
    assert_close(
        [out, rows.grad, weights.grad], [expected, expected_rows.grad, expected_weights.grad]
    )


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_grouped_gemm_in_bf16_rounds_once(layout: str, generator: torch.Generator) -> None:
    counts = [4, 0, 9]
    shape = (3, 7, 40) if layout == "out_in" else (3, 40, 7)
    rows = torch.randn(13, 40, generator=generator).bfloat16()
    weights = torch.randn(*shape, generator=generator).bfloat16()
    out = functional.grouped_gemm(rows, weights, counts, layout=layout)
    exact = reference.grouped_gemm(rows.double(), weights.double(), counts, layout)
    assert out.dtype == torch.bfloat16
    # Half a unit in the last of 8 bits, and the error of the f32 sum where terms cancel.
    assert ((out.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4).all()


def test_grouped_gemm_skips_the_gradient_of_frozen_weights(generator: torch.Generator) -> None:
    rows = torch.randn(4, H, generator=generator, requires_grad=True)
    weights = torch.randn(2, 7, H, generator=generator)
    functional.grouped_gemm(rows, weights, [1, 3]).sum().backward()
    assert rows.grad is not None and weights.grad is None


def test_numpy_multiplies_alike(generator: torch.Generator) -> None:
    rows = torch.randn(9, H, generator=generator, requires_grad=True)
    weights = torch.randn(3, 7, H, generator=generator, requires_grad=True)
    grad = torch.randn(9, 7, generator=generator)
    expected = functional.grouped_gemm(rows, weights, [2, 0, 7])
    expected.backward(grad)
    arrays = rows.detach().numpy(), weights.detach().numpy()
    counts = numpy.array([2, 0, 7], numpy.int32)
    numpy.testing.assert_array_equal(functional.grouped_gemm(*arrays, counts), expected.detach())
    grads = functional.grouped_gemm_backward(grad.numpy(), *arrays, counts)
    numpy.testing.assert_array_equal(grads[0], rows.grad)
    numpy.testing.assert_array_equal(grads[1], weights.grad)
