"""A choice of -1 means no expert: no row is computed, and its weight is not read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_layer import LayerShape, RandomLayer, random_layer
from support import reference
from support.compare import assert_close, assert_same_bits
from support.passes import rank_part
from support.ranks import run_ranks

import autoep
from autoep import functional

T, K, E, H, F = 19, 3, 7, 16, 12
SPLITS = {1: [T], 2: [11, 8], 4: [0, 9, 4, 6]}


def gappy_layer(dtype: torch.dtype, tokens: int = T, every: int = 4) -> RandomLayer:
    """A layer in which one slot in some has no expert, and NaN for its weight."""
    layer = random_layer(LayerShape(tokens, K, E, H, F, biases=True), dtype, without_expert=every)
    if tokens:
        layer.topk_idx[-1] = -1  # a token without any expert
    with torch.no_grad():
        layer.topk_weights[layer.topk_idx < 0] = torch.nan
    return layer


@pytest.mark.parametrize("score_apply", ["after", "before"])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_values_and_gradients_match_torch(
    index_dtype: torch.dtype, score_apply: str, dtype: torch.dtype
) -> None:
    layer = gappy_layer(dtype)
    layer.topk_idx = layer.topk_idx.to(index_dtype)
    expected = layer.double().run(reference.experts, score_apply=score_apply)
    actual = layer.run(functional.experts, score_apply=score_apply)
    assert_close(actual, expected)
    assert not actual[2][layer.topk_idx < 0].any(), "the gradient of such a weight is 0"
    assert not actual[0][-1].any()
    assert not actual[1][-1].any()


@pytest.mark.parametrize("ranks", SPLITS)
@pytest.mark.parametrize("score_apply", ["after", "before"])
def test_ranks_give_the_bits_of_one(score_apply: str, ranks: int, dtype: torch.dtype) -> None:
    layer = gappy_layer(dtype)
    expected = layer.run(functional.experts, score_apply=score_apply)
    results = run_ranks(
        ranks,
        lambda comm: rank_part(layer, comm, SPLITS[ranks]).run(
            functional.experts, comm=comm, num_experts=E, score_apply=score_apply
        ),
    )
    joined = [torch.cat(pieces) for pieces in zip(*results, strict=True)]
    for index in (0, 1, 2):  # y, and the gradients to x and to the weights of the top-k
        assert_same_bits(joined[index], expected[index])
    assert_close(joined, [tensor.double() for tensor in expected])


@pytest.mark.parametrize("ranks", [1, 3])
def test_no_slot_has_an_expert(ranks: int) -> None:
    def body(comm: Any) -> list[torch.Tensor]:
        layer = random_layer(LayerShape(5, K, E, H, F, biases=True), torch.float32)
        layer.topk_idx.fill_(-1)
        first, count = functional.expert_range(E, comm.size, comm.rank)
        part = layer.part(slice(None), slice(first, first + count))
        return part.run(functional.experts, comm=comm, num_experts=E)

    for results in run_ranks(ranks, body):
        assert all(tensor is not None and not tensor.any() for tensor in results)


def test_plans_count_only_slots_with_an_expert() -> None:
    layer = gappy_layer(torch.float32)
    plan = functional.experts_plan(
        layer.topk_idx, num_experts=E, hidden_size=H, ffn_size=F, dtype="float32"
    )
    chosen = layer.topk_idx[layer.topk_idx >= 0]
    counts = chosen.bincount(minlength=E).tolist()
    assert plan.tokens_per_expert_sent() == counts
    assert plan.tokens_per_expert_received() == counts
    assert (plan.rows, plan.rows_capacity) == (len(chosen), T * K)
    with torch.no_grad():
        y = functional.experts(**layer.given(), plan=plan)
        assert_same_bits(y, functional.experts(**layer.given()))


def test_statistics_count_rows_and_not_slots() -> None:
    layer = gappy_layer(torch.float32)
    functional.reset_statistics()
    with torch.no_grad():
        functional.experts(**layer.given())
    found = functional.statistics()
    assert found.rows_sent == found.rows_received == int((layer.topk_idx >= 0).sum())


def test_permutation_leaves_such_slots_out(dtype: torch.dtype) -> None:
    layer = gappy_layer(dtype)
    x = layer.x.detach().requires_grad_()
    permuted = functional.permute(x, layer.topk_idx, E)
    has_expert = layer.topk_idx >= 0
    count = int(has_expert.sum())
    assert torch.equal(permuted.row_of_slot < 0, ~has_expert)
    assert permuted.tokens_per_expert.sum() == count
    assert not permuted.rows[count:].any()
    weights = layer.topk_weights.detach().requires_grad_()
    y = functional.unpermute(permuted.rows, permuted.row_of_slot, weights)
    y.sum().backward()
    known = torch.where(has_expert, weights.detach(), 0)
    assert_close([y.detach()], [(x.detach() * known.sum(1, keepdim=True)).double()])
    assert_close([x.grad], [known.sum(1, keepdim=True).expand(-1, H).double()])
    assert not weights.grad[~has_expert].any()


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("wrong", [-2, E, 2**31 - 1])
def test_any_other_index_is_refused_on_all_ranks(wrong: int, ranks: int) -> None:
    layer = gappy_layer(torch.float32, tokens=3 * ranks)

    def body(comm: Any) -> str:
        part = rank_part(layer, comm, [3] * ranks)
        if comm.rank == ranks - 1:
            part.topk_idx[1, 2] = wrong
        with pytest.raises(autoep.Error, match=rf"topk_idx|rank {ranks - 1} could") as caught:
            functional.experts(**part.given(), comm=comm, num_experts=E)
        return type(caught.value).__name__

    *others, own = run_ranks(ranks, body)
    assert own == "InvalidArgumentError"
    assert len(others) == ranks - 1
