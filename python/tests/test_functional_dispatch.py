"""Dispatch and combine by themselves, and experts made of them beside those of the engine."""

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

import autoep
from autoep import functional
from autoep.distributed.communicator import Communicator
from autoep.layers.unfused import composed_experts

T, K, E, H, F = 19, 3, 7, 16, 12
SPLITS = {1: [T], 2: [11, 8], 4: [0, 9, 4, 6], 5: [3, 4, 0, 12, 0]}


def some_layer(dtype: torch.dtype, experts: int = E, **shape: Any) -> RandomLayer:
    return random_layer(LayerShape(T, K, experts, H, F, **shape), dtype, without_expert=5)


def expected_rows(layer: RandomLayer, weighted: bool) -> torch.Tensor:
    """The rows of a rank alone."""
    flat = layer.topk_idx.flatten()
    slots = torch.where(flat < 0, E, flat).argsort(stable=True)[: int((flat >= 0).sum())]
    rows = layer.x.detach()[slots // K]
    return rows * layer.topk_weights.detach().flatten()[slots, None] if weighted else rows


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_the_tokens_in_expert_order(weighted: bool, dtype: torch.dtype) -> None:
    layer = some_layer(dtype)
    weights = layer.topk_weights if weighted else None
    rows, counts, plan = functional.dispatch(
        layer.x, layer.topk_idx, num_experts=E, topk_weights=weights
    )
    assert_same_bits(rows.detach(), expected_rows(layer, weighted))
    known = layer.topk_idx[layer.topk_idx >= 0]
    assert counts.tolist() == known.bincount(minlength=E).tolist()
    assert (plan.rows, plan.num_tokens, plan.local_experts) == (len(rows), T, E)
    again = functional.dispatch(layer.x, None, plan=plan, topk_weights=weights)
    assert_same_bits(again.rows.detach(), rows.detach())


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True)])
def test_gradients(before: bool, after: bool) -> None:
    layer = some_layer(torch.float64)

    def run(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        rows, _, plan = functional.dispatch(
            x, layer.topk_idx, num_experts=E, topk_weights=first if before else None
        )
        scale = torch.linspace(0.5, 2.0, len(rows), dtype=rows.dtype).unsqueeze(1)
        return functional.combine(rows.sin() * scale, plan, second if after else None)

    weights = layer.topk_weights
    other = (weights.detach() * 0.7 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(run, (layer.x, weights, other))


def doubled(part: RandomLayer, comm: Communicator | None, weighted: str) -> list[torch.Tensor]:
    """y and gradients of a sum over each token's rows, for experts that multiply by 2."""
    x, weights = part.x, part.topk_weights
    rows, _, plan = functional.dispatch(
        x,
        part.topk_idx,
        num_experts=E,
        comm=comm,
        topk_weights=weights if weighted == "before" else None,
    )
    y = functional.combine(2 * rows, plan, weights if weighted == "after" else None)
    y.backward(part.grad_y)
    return [y.detach(), x.grad, *([] if weighted == "none" else [weights.grad])]


@pytest.mark.parametrize("ranks", SPLITS)
@pytest.mark.parametrize("weighted", ["none", "before", "after"])
def test_ranks_give_the_bits_of_one(weighted: str, ranks: int, dtype: torch.dtype) -> None:
    layer = some_layer(dtype)
    expected = doubled(layer.clone(), None, weighted)
    results = run_ranks(
        ranks, lambda comm: doubled(rank_part(layer, comm, SPLITS[ranks]), comm, weighted)
    )
    for pieces, whole in zip(zip(*results, strict=True), expected, strict=True):
        assert_same_bits(torch.cat(pieces), whole)


@pytest.mark.parametrize("ranks", [1, 2])
def test_numpy_gives_the_same_bits(ranks: int, dtype: torch.dtype) -> None:
    layer = some_layer(dtype)

    def body(comm: Communicator) -> None:
        part = rank_part(layer, comm, SPLITS[ranks])
        expected = doubled(part, comm, "after")
        x, weights, grad_y = (t.detach().numpy() for t in (part.x, part.topk_weights, part.grad_y))
        idx = part.topk_idx.numpy()
        rows, _, plan = functional.dispatch(x, idx, num_experts=E, comm=comm)
        y = functional.combine(2 * rows, plan, weights)
        grad_rows, grad_weights = functional.combine_backward(grad_y, 2 * rows, plan, weights)
        grad_x, none = functional.dispatch_backward(2 * grad_rows, plan)
        assert none is None
        for a, e in zip((y, grad_x, grad_weights), expected, strict=True):
            numpy.testing.assert_array_equal(a, e)
        part.x.grad = part.topk_weights.grad = None
        _, grad_x, grad_weights = doubled(part, comm, "before")
        back, none = functional.combine_backward(grad_y, None, plan)
        assert none is None
        found = functional.dispatch_backward(2 * back, plan, x, weights)
        for a, e in zip(found, (grad_x, grad_weights), strict=True):
            numpy.testing.assert_array_equal(a, e)

    run_ranks(ranks, body)


def silu(hidden: torch.Tensor) -> torch.Tensor:
    gate, up = hidden.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def composed(
    x: torch.Tensor,
    idx: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    *,
    gate_up_bias: torch.Tensor | None,
    down_bias: torch.Tensor | None,
    num_experts: int,
    comm: Communicator | None = None,
    layout: str = "out_in",
    score_apply: str = "after",
) -> torch.Tensor:
    """`composed_experts` with the arguments of `functional.experts`."""
    return composed_experts(
        x,
        idx,
        weights,
        functional.ExpertsWeights(gate_up, gate_up_bias, down, down_bias),
        num_experts=num_experts,
        comm=comm,
        layout=layout,
        score_apply=score_apply,
        activate=silu,
    )


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("score_apply", ["after", "before"])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("experts", [E, 3])
def test_composed_experts_are_experts(
    experts: int, layout: str, score_apply: str, biases: bool, ranks: int, dtype: torch.dtype
) -> None:
    """Also on ranks without experts: 3 over 4."""
    layer = some_layer(dtype, experts, biases=biases, layout=layout)
    options = {"layout": layout, "score_apply": score_apply}
    expected = layer.double().run(reference.experts, **options)
    results = run_ranks(
        ranks,
        lambda comm: rank_part(layer, comm, SPLITS[ranks]).run(
            composed, comm=comm, num_experts=experts, **options
        ),
    )
    for index, pieces in enumerate(zip(*results, strict=True)):
        if pieces[0] is not None:
            assert_close([torch.cat(pieces)], [expected[index]])


@pytest.mark.parametrize("score_apply", ["after", "before"])
def test_a_bad_choice_on_one_rank_raises_on_all_at_once(score_apply: str) -> None:
    """The communicator's deadline is a minute; nobody waits for it."""
    layer = some_layer(torch.float32)

    def body(comm: Communicator) -> tuple[str, float]:
        import time

        part = rank_part(layer, comm, SPLITS[2])
        if comm.rank == 1:
            part.topk_idx[2, 1] = E
        begin = time.monotonic()
        with pytest.raises(autoep.Error, match=r"topk_idx|rank 1 could not be"):
            part.run(composed, comm=comm, num_experts=E, score_apply=score_apply)
        return time.monotonic() - begin

    assert max(run_ranks(2, body)) < 20


def test_a_combine_may_follow_a_plan_of_the_experts() -> None:
    layer = some_layer(torch.float32)
    plan = functional.experts_plan(
        layer.topk_idx, num_experts=E, hidden_size=H, ffn_size=F, dtype=torch.float32
    )
    rows, counts, same = functional.dispatch(layer.x, None, plan=plan)
    assert same is plan
    assert counts.tolist() == plan.tokens_per_expert_received()
    expected = layer.x.detach() * (layer.topk_idx >= 0).sum(1, keepdim=True)
    assert_close([functional.combine(rows, plan).detach()], [expected.double()])


@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_of_another_number_are_refused(ranks: int) -> None:
    layer = some_layer(torch.float32)

    def body(comm: Communicator) -> None:
        part = rank_part(layer, comm, SPLITS[ranks])
        given = None if ranks == 1 else comm
        x, weights = part.x.detach(), part.topk_weights.detach()
        rows, _, plan = functional.dispatch(x, part.topk_idx, num_experts=E, comm=given)
        for wrong in (rows[:-1], torch.cat([rows, rows[:1]])):
            for refused in (
                lambda rows: functional.combine(rows, plan),
                lambda rows: functional.dispatch_backward(rows, plan),
                lambda rows: functional.combine_backward(x, rows, plan, weights),
            ):
                with pytest.raises(autoep.InvalidArgumentError, match=r"dispatch returned"):
                    refused(wrong)
        with pytest.raises(autoep.InvalidArgumentError, match=r"plan was made for \d+ tokens"):
            functional.dispatch(x[:-1], None, plan=plan)
        with pytest.raises(autoep.InvalidArgumentError, match=r"plan was made for \d+ tokens"):
            functional.combine_backward(x[:-1], None, plan)
        # Nothing was sent: the group is as before.
        functional.combine(rows, plan)

    run_ranks(ranks, body)
