"""The experts on one GPU against plain torch in f64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest
import torch
from support.cuda.local_experts import (
    Data,
    Layer,
    Run,
    assert_close,
    assert_same_bits,
    bits,
    both_with_dropped_choices,
    context_of,
    error,
    expected,
)

import autoep
from autoep import functional
from autoep.core.native import engine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# Legend of sizes: T, K, E, H, F.
SIZES = [
    (0, 2, 4, 16, 8),
    (1, 1, 1, 8, 8),
    (5, 2, 3, 7, 5),
    (37, 3, 6, 40, 24),
    (64, 6, 6, 72, 33),
    (300, 2, 8, 136, 264),
    (129, 8, 64, 64, 48),
]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"layout": "in_out"},
    {"bias": True},
    {"score_apply": "before"},
    {"score_apply": "before", "bias": True, "layout": "in_out"},
    {"activation": "gelu", "gate": "none"},
    {"activation": "gelu_tanh", "gate": "interleaved", "bias": True},
    {"activation": "relu_squared", "gate": "none", "layout": "in_out"},
    {"activation": "clamped_swiglu", "gate": "interleaved", "layout": "in_out", "bias": True},
    {"choice": "one expert"},
    {"choice": "even experts", "bias": True},
    {"choice": "skewed", "index_dtype": torch.int32},
]


@pytest.fixture(scope="module")
def context() -> Any:
    return context_of(torch.cuda.current_stream())


@pytest.fixture(autouse=True)
def no_faults(context: Any) -> Iterator[None]:
    """Nothing that a test has left shows in the next."""
    yield
    torch.cuda.synchronize()
    engine.context_num_threads(context)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_f32(context: Any, sizes: tuple, options: dict[str, Any]) -> None:
    # The gradient to a lone slot's weight is one inner product; with this seed it does not cancel.
    data = Data(Layer(sizes=sizes, **options), seed=10)
    run = Run(context, data)
    assert_close(run.both(), expected(data, torch.float64))
    counts = torch.bincount(data.topk_idx.flatten().long(), minlength=sizes[2])
    assert torch.equal(run.tokens_per_expert.long(), counts)
    again = bits(run.results())
    assert_same_bits(bits(Run(context, data).both()), again)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_halves_are_as_good_as_torch(
    context: Any, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    """Errors against f64 by the side of torch's in the same dtype, for tensors of 1000 and more."""
    ratios: dict[int, list[float]] = {}
    for seed in range(20):
        layer = Layer(sizes=(300, 4, 8, 136, 264), dtype=dtype, weight_dtype=dtype, **options)
        data = Data(layer, seed)
        wanted = expected(data, torch.float64)
        ours, theirs = Run(context, data).both(), expected(data, dtype)
        for index, (a, t, w) in enumerate(zip(ours, theirs, wanted, strict=True)):
            if a.numel() >= 1000:
                ratios.setdefault(index, []).append(error(a, w) / max(error(t, w), 1e-300))
    for index, values in ratios.items():
        assert median(values) <= 1.1, f"tensor {index}: {median(values):.3f} of torch's error"


@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "sizes"),
    list(itertools.product(TYPES, TYPES, [(67, 3, 5, 37, 29), (129, 4, 16, 64, 48)])),
    ids=str,
)
def test_every_pair_of_types(
    context: Any, dtype: torch.dtype, weight_dtype: torch.dtype, sizes: tuple
) -> None:
    data = Data(Layer(sizes=sizes, dtype=dtype, weight_dtype=weight_dtype, bias=True))
    wanted = expected(data, torch.float64)
    # Torch's own chain of roundings leaves two thirds of a unit of the coarser type.
    unit = max(torch.finfo(dtype).eps, torch.finfo(weight_dtype).eps, 3e-6)
    for index, (a, w) in enumerate(zip(Run(context, data).both(), wanted, strict=True)):
        assert error(a, w) <= unit, f"tensor {index}"


@pytest.mark.parametrize("score_apply", ["after", "before"])
def test_dropped_choices_contribute_nothing_and_are_told(context: Any, score_apply: str) -> None:
    data = Data(Layer(choice="dropped", bias=True, score_apply=score_apply))
    results = both_with_dropped_choices(Run(context, data))
    assert_close(results, expected(data, torch.float64))


def test_gradients_are_added_in_f32(context: Any) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        data = Data(Layer(dtype=dtype, bias=True, choice="even experts"))
        once, twice = Run(context, data), Run(context, data)
        once.gradients = once.gradients_of(torch.float32)
        single = once.both()
        twice.gradients = twice.gradients_of(torch.float32)
        for gradient in twice.gradients:
            assert gradient is not None
            gradient.zero_()
        twice.forward()
        twice.backward(accumulate=True)
        twice.backward(accumulate=True)
        for a, b in zip(twice.results()[3:], single[3:], strict=True):
            assert torch.equal(a, 2 * b)


def test_gradients_that_nobody_wants(context: Any) -> None:
    for score_apply in ("after", "before"):
        data = Data(Layer(bias=True, score_apply=score_apply))
        results = bits(Run(context, data).both())
        for left_out in range(7):
            run = Run(context, data)
            if left_out == 0:
                run.grad_x = None
            elif left_out == 1:
                run.grad_topk_weights = None
            elif left_out < 6:
                gradients = list(run.gradients)
                gradients[left_out - 2] = None
                run.gradients = tuple(gradients)
            else:
                run.grad_topk_weights = None
                run.gradients = (None,) * 4
            run.forward()
            run.backward()
            torch.cuda.synchronize()
            given = [run.y, run.grad_x, run.grad_topk_weights, *run.gradients]
            for tensor, wanted in zip(given, results, strict=True):
                if tensor is not None:
                    assert torch.equal(tensor.contiguous().view(-1).view(torch.uint8), wanted)
            run.memory.check()


def test_streams_and_a_captured_graph() -> None:
    """A graph of forward and backward gives the bits of the calls, for data put in later."""
    for dtype in (torch.float32, torch.bfloat16):
        layer = Layer(sizes=(129, 4, 16, 64, 48), dtype=dtype, bias=True)
        stream = torch.cuda.Stream()
        context = context_of(stream)
        data = Data(layer)
        run = Run(context, data)
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            run.forward()
            run.backward()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run.forward()
            run.backward()
        for seed in (1, 2):
            other = Data(layer, seed)
            for name in ("x", "grad_y", "topk_idx", "topk_weights"):
                getattr(data, name).copy_(getattr(other, name))
            graph.replay()
            captured = bits(run.results())
            eager = Run(context_of(torch.cuda.default_stream()), data)
            assert_same_bits(bits(eager.both()), captured)


def test_tensors_of_another_device_are_refused(context: Any) -> None:
    run = Run(context, Data(Layer()))
    run.data.x = run.data.x.cpu()
    with pytest.raises(
        autoep.InvalidArgumentError, match=r"x is on the CPU; expected CUDA device 0"
    ):
        run.forward()
    run = Run(context, Data(Layer()))
    run.saved = run.saved.cpu()
    with pytest.raises(autoep.InvalidArgumentError, match=r"saved: expected memory of"):
        run.forward()


@pytest.mark.parametrize("score_apply", ["after", "before"])
def test_slots_without_an_expert(context: Any, score_apply: str) -> None:
    """Nothing is told of them, and their weights are not read."""
    for dtype in (torch.float32, torch.bfloat16):
        data = Data(Layer(dtype=dtype, bias=True, score_apply=score_apply))
        is_none = torch.rand(data.topk_idx.shape, device="cuda") < 0.3
        data.topk_idx[is_none] = -1
        data.topk_weights[is_none] = torch.nan
        results = Run(context, data).both()
        assert not results[2][is_none].any()
        for index, (a, w) in enumerate(zip(results, expected(data, torch.float64), strict=True)):
            unit = 3e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
            assert error(a, w) <= unit, f"tensor {index}"


def test_a_backward_in_what_was_saved(context: Any) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        data = Data(Layer(dtype=dtype, bias=True))
        wanted = bits(Run(context, data).both())
        run = Run(context, data)
        run.forward()
        run.backward(overwrite_saved=True)
        assert_same_bits(bits(run.results()), wanted)


def test_dispatch_and_combine(context: Any) -> None:
    """Those of the public functions, with slots without an expert."""
    data = Data(Layer())
    data.topk_idx[::3, 1] = -1
    x, weights = (t.cpu().double().requires_grad_() for t in (data.x, data.topk_weights))
    given = [t.detach().requires_grad_() for t in (data.x, data.topk_weights)]
    found = []
    for tensors, idx in (((x, weights), data.topk_idx.cpu()), (given, data.topk_idx)):
        rows, counts, plan = functional.dispatch(
            tensors[0], idx, num_experts=6, topk_weights=tensors[1]
        )
        y = functional.combine(rows.sin(), plan, tensors[1])
        y.backward(data.grad_y.to(y.device, y.dtype))
        found.append([y.detach(), *(t.grad for t in tensors), counts])
    *wanted, counts = found[0]
    assert_close([t.cpu() for t in found[1][:3]], wanted)
    assert torch.equal(found[1][3].cpu(), counts)
