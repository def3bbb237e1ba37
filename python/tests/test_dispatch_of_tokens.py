"""Layers that send each token once per rank, beside plain torch and beside themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_layer import LayerShape, RandomLayer, random_layer
from support import reference
from support.compare import assert_all_same_bits, assert_close
from support.passes import rank_part
from support.ranks import run_ranks
from test_functional_dispatch import composed

from autoep import functional
from autoep.distributed.communicator import Communicator

T, K, E, H, F = 23, 3, 7, 16, 12
SPLITS = {1: [T], 2: [T, 0], 3: [4, 0, T - 4], 4: [5, 0, 9, T - 14]}


def some_layer(dtype: torch.dtype, experts: int = E, **options: Any) -> RandomLayer:
    shape = LayerShape(T, min(K, experts), experts, H, F, biases=True)
    return random_layer(shape, dtype, without_expert=4, **options)


def run_over(ranks: int, layer: RandomLayer, run: Any, **options: Any) -> list[Any]:
    """Returns the results of each rank."""

    def body(comm: Communicator) -> list[torch.Tensor]:
        comm.dispatch = "tokens"
        part = rank_part(layer, comm, SPLITS[ranks])
        return part.run(run, comm=comm, num_experts=layer.shape.experts, **options)

    return run_ranks(ranks, body)


@pytest.mark.parametrize("ranks", SPLITS)
@pytest.mark.parametrize("run", [functional.experts, composed])
@pytest.mark.parametrize("score_apply", ["after", "before"])
@pytest.mark.parametrize("experts", [E, 3])
def test_results_are_those_of_plain_torch(
    experts: int, score_apply: str, run: Any, ranks: int, dtype: torch.dtype
) -> None:
    """Also on ranks without tokens, and without experts: 3 over 4."""
    layer = some_layer(dtype, experts)
    expected = layer.double().run(reference.experts, score_apply=score_apply)
    results = run_over(ranks, layer, run, score_apply=score_apply)
    for index, pieces in enumerate(zip(*results, strict=True)):
        assert_close([torch.cat(pieces)], [expected[index]])


@pytest.mark.parametrize("run", [functional.experts, composed])
def test_a_run_repeats_bit_for_bit(run: Any, dtype: torch.dtype) -> None:
    layer = some_layer(dtype)
    for first, second in zip(*(run_over(3, layer.clone(), run) for _ in range(2)), strict=True):
        assert_all_same_bits(first, second)


@pytest.mark.parametrize("dynamic", [False, True])
def test_layers_compile_without_a_break(dynamic: bool) -> None:
    layer = some_layer(torch.float32)

    def block(x: torch.Tensor, *tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        return functional.experts(x * 2, *tensors, **options) + 1

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        found = [run_over(2, layer.clone(), run) for run in (compiled, block)]
    for first, second in zip(*found, strict=True):
        assert_all_same_bits(first, second)


@pytest.mark.parametrize(("dispatch", "sent"), [("tokens", 2 * T), ("slots", 4 * T)])
def test_a_token_goes_once_to_each_rank(dispatch: str, sent: int) -> None:
    """K = E = 4: each token has two experts on each of both ranks."""
    layer = random_layer(LayerShape(T, 4, 4, H, F), torch.float32)
    layer.topk_idx[:] = torch.arange(4)

    def body(comm: Communicator) -> None:
        comm.dispatch = dispatch
        rank_part(layer, comm, SPLITS[2]).run(functional.experts, comm=comm, num_experts=4)

    functional.reset_statistics()
    run_ranks(2, body)
    assert functional.statistics().rows_sent == sent
    functional.reset_statistics()
