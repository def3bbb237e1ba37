"""The single operations of `autoep.functional` on a GPU against the same on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.compare import assert_close_or_equal

import autoep
from autoep import functional

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

T, K, E, H, COLUMNS = 67, 3, 12, 40, 24
ROUTES: list[dict[str, Any]] = [
    {},
    {"normalize": True, "scale": 2.5},
    {"score": "topk_softmax"},
    {"score": "sigmoid", "normalize": True},
    {"score": "sigmoid", "group_score": "top2_sum", "num_groups": 4, "topk_groups": 2},
    {"group_score": "max", "num_groups": 3, "topk_groups": 1},
    {"score": "sinkhorn", "training": False},
]


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    """Nothing that a test has left shows in the next."""
    yield
    torch.cuda.synchronize()
    functional.sort_by_expert(torch.zeros(1, 1, dtype=torch.int32, device="cuda"), 1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def on_both(function: Callable[..., Any], *tensors: torch.Tensor) -> list[list[torch.Tensor]]:
    """The results and the gradients, on the CPU and on the GPU, brought to the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        given = [t.to(device) for t in tensors]
        leaves = [t.requires_grad_() for t in given if t.is_floating_point()]
        results = function(*given)
        results = results if isinstance(results, tuple) else (results,)
        assert all(r.device.type == device for r in results)
        wanted = [r for r in results if r.requires_grad]
        grads = [normal(*r.shape, seed=7).to(r.dtype).to(device) for r in wanted]
        gradients = torch.autograd.grad(wanted, leaves, grads) if leaves else ()
        torch.cuda.synchronize()
        found.append([t.detach().cpu() for t in (*results, *gradients)])
    return found


def assert_same_on_both(function: Callable[..., Any], *tensors: torch.Tensor) -> None:
    on_cpu, on_gpu = on_both(function, *tensors)
    assert_close_or_equal(on_gpu, on_cpu)


@pytest.mark.parametrize("options", ROUTES, ids=str)
def test_route(options: dict[str, Any]) -> None:
    assert_same_on_both(lambda logits: tuple(functional.route(logits, K, **options)), normal(T, E))


def test_sinkhorns_balancing_is_refused() -> None:
    with pytest.raises(autoep.UnsupportedError, match="on CPUs only"):
        functional.route(normal(T, E).cuda(), K, score="sinkhorn")


def test_route_with_a_selection_bias() -> None:
    bias = normal(E, seed=2)

    def run(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        own = bias.to(logits.device)
        return tuple(functional.route(logits, K, score="sigmoid", selection_bias=own))

    assert_same_on_both(run, normal(T, E))


def test_the_z_loss_and_the_jitter() -> None:
    assert_same_on_both(functional.router_z_loss, normal(T, E))
    on_cpu, on_gpu = on_both(lambda x: functional.jitter(x, 0.1, 5), normal(T, H))
    assert all(torch.equal(a, e) for a, e in zip(on_gpu, on_cpu, strict=True))


def test_permute_and_unpermute() -> None:
    idx = torch.rand(T, E, generator=torch.Generator().manual_seed(1)).topk(K).indices

    def run(x: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sent = functional.permute(x, idx.to(x.device), E)
        back = functional.unpermute(sent.rows * 2, sent.row_of_slot, weights)
        return *sent, back, functional.unpermute(sent.rows, sent.row_of_slot)

    assert_same_on_both(run, normal(T, H), normal(T, K, seed=1))


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_grouped_gemm(layout: str) -> None:
    counts = [7, 0, 30, 1, 29]
    shape = (5, COLUMNS, H) if layout == "out_in" else (5, H, COLUMNS)
    for groups in (counts, torch.tensor(counts), torch.tensor(counts, dtype=torch.int32)):

        def run(rows: torch.Tensor, weights: torch.Tensor, groups: Any = groups) -> torch.Tensor:
            own = groups if isinstance(groups, list) else groups.to(rows.device)
            return functional.grouped_gemm(rows, weights, own, layout=layout)

        assert_same_on_both(run, normal(T, H), normal(*shape, seed=1))


def test_logits_that_are_not_numbers_raise_at_a_later_call() -> None:
    logits = normal(T, E).cuda()
    bad = logits.clone()
    bad[3, 2] = torch.nan
    functional.route(bad, K)
    torch.cuda.synchronize()
    with pytest.raises(autoep.InvalidArgumentError, match="logits with a NaN"):
        functional.route(logits, K)
    functional.route(logits, K)


def test_no_call_waits_for_the_device() -> None:
    logits = normal(T, E).cuda().requires_grad_()
    x, weight = normal(T, H).cuda().requires_grad_(), normal(E, COLUMNS, H).cuda()

    def run() -> None:
        routing = functional.route(logits, K)
        sent = functional.permute(x, routing.topk_idx, E)
        rows = functional.grouped_gemm(sent.rows, weight, sent.tokens_per_expert)
        y = functional.unpermute(rows, sent.row_of_slot, routing.topk_weights)
        y.backward(y.detach())

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
