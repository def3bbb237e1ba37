"""`functional.experts` on a GPU: its numbers, and what torch does around it.

The engine's own calls are tested in test_cuda_local_experts.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from random_layer import NAMES, LayerShape, random_layer
from support import reference
from support.bf16_accuracy import MARGIN, median_ratios
from support.compare import assert_all_same_bits, assert_close
from support.passes import backward, buffers_of, results, take_gradients
from torch.utils.checkpoint import checkpoint

import autoep
from autoep import functional

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
pytestmark = needs_gpu

Given = dict[str, torch.Tensor | None]

# The width of some is no whole vector of 16 bytes; T, K, E, H, F.
SIZES = [
    (0, 2, 4, 16, 8),
    (1, 1, 1, 8, 8),
    (5, 3, 3, 7, 5),
    (300, 2, 8, 136, 264),
    (515, 4, 16, 256, 384),
]
OPTIONS: list[dict[str, Any]] = [
    *({"activation": name, "gate": gate} for name in ("silu", "gelu", "gelu_tanh", "relu_squared")
      for gate in ("none", "concatenated", "interleaved")),
    {"activation": "clamped_swiglu", "gate": "concatenated", "swiglu_limit": 1.5},
    {"activation": "clamped_swiglu", "gate": "interleaved", "swiglu_alpha": 1.1},
    {"activation": "clamped_silu", "gate": "concatenated", "swiglu_limit": 1.5},
]  # fmt: skip
PLACES = list(itertools.product(("out_in", "in_out"), ("after", "before"), (False, True)))


def inputs(
    sizes: tuple[int, int, int, int, int] = (515, 4, 16, 256, 384),
    dtype: torch.dtype = torch.bfloat16,
    *,
    gate: str = "concatenated",
    layout: str = "out_in",
    bias: bool = False,
    experts_in_use: int | None = None,
    seed: int = 0,
    device: str = "cuda",
    positive: bool = False,
) -> Given:
    """What `functional.experts` takes; `positive`: so that no sum cancels."""
    return random_layer(
        LayerShape(*sizes, gate=gate, layout=layout, biases=bias),
        dtype,
        seed=seed,
        weight_dtype=torch.float32,
        device=device,
        experts_in_use=experts_in_use,
        signed_weights=not positive,
        positive=positive,
    ).given()


def exact(given: Given, **options: Any) -> list[torch.Tensor]:
    """The result and the gradients in f64."""
    double = {
        name: None
        if t is None
        else t.detach().double().requires_grad_()
        if t.is_floating_point()
        else t
        for name, t in given.items()
    }
    y = reference.experts(**double, **options)
    leaves = [t for t in double.values() if t is not None and t.requires_grad]
    grad_y = (torch.ones_like(y) + 0.5 * y).detach()
    return [y.detach(), *torch.autograd.grad(y, leaves, grad_y, materialize_grads=True)]


def run(given: Given, function: Callable[..., Any] = functional.experts, **options: Any) -> list:
    """The result and the gradients, on the CPU."""
    found = results(given, lambda **tensors: function(**tensors, **options))
    torch.cuda.synchronize()
    return [t.cpu() for t in found]


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    """Nothing that a test has left shows in the next."""
    yield
    torch.cuda.synchronize()
    functional.sort_by_expert(torch.zeros(1, 1, dtype=torch.int32, device="cuda"), 1)


@pytest.fixture(params=["portable", "sm90"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which kernels compute; checked by the names of those that ran."""
    if request.param == "sm90" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("not a GPU of compute capability 9.0")
    monkeypatch.setenv("AUTOEP_CUDA_KERNELS", request.param)
    given = inputs()
    run(given)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(given)
    names = [event.key for event in profile.key_averages()]
    assert any("sm90_bf16" in name for name in names) == (request.param == "sm90"), names
    return request.param


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_option_matches_torch(options: dict[str, Any], place: tuple) -> None:
    layout, score_apply, bias = place
    given = inputs(
        (67, 3, 5, 37, 29), torch.float32, gate=options["gate"], layout=layout, bias=bias
    )
    others = {**options, "layout": layout, "score_apply": score_apply}
    assert_close(run(given, **others), [t.cpu() for t in exact(given, **others)])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("experts_in_use", [None, 1])
def test_odd_shapes(sizes: tuple, experts_in_use: int | None) -> None:
    """No tokens, one token, K = E, empty experts, all tokens on one."""
    given = inputs(sizes, torch.float32, bias=True, experts_in_use=experts_in_use)
    found, expected = run(given), [t.cpu() for t in exact(given)]
    if sizes[0] == 0:
        assert all(not t.any() for t in found)
        assert [t.shape for t in found] == [t.shape for t in expected]
    else:
        assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
def test_odd_shapes_in_halves(kernels: str, dtype: torch.dtype, sizes: tuple) -> None:
    """Within two roundings of f64: what plain torch does is compared below. The sums of one token's
    few numbers are kept from cancelling."""
    for experts_in_use in (None, 1):
        given = inputs(sizes, dtype, experts_in_use=experts_in_use, positive=sizes[0] == 1)
        expected = exact(given)
        for a, e in zip(run(given), expected, strict=True):
            error = (a.double() - e.cpu()).norm() / e.norm().clamp(min=1e-30).cpu()
            assert error <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("peer", ["eager", "grouped_mm"])
def test_errors_are_no_larger_than_those_of_torch(kernels: str, peer: str) -> None:
    medians = median_ratios(peer, "cuda")
    print(f"\n{kernels}: error against float64, over {peer}'s:", medians)
    assert max(medians.values()) <= MARGIN, medians


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_reruns_give_the_same_bits(kernels: str, dtype: torch.dtype) -> None:
    given = inputs(dtype=dtype)
    expected = run(given)
    for _ in range(5):
        assert_all_same_bits(run(given), expected)


def test_both_kernels_choose_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(seed=3)
    found = {}
    for choice in ("portable", "sm90"):
        monkeypatch.setenv("AUTOEP_CUDA_KERNELS", choice)
        if choice == "portable" or torch.cuda.get_device_capability() == (9, 0):
            found[choice] = run(given)
    if "sm90" in found:
        for a, b in zip(*found.values(), strict=True):
            assert (a - b).float().norm() <= 2**-7 * b.float().norm()


def test_no_call_waits_for_the_device(kernels: str) -> None:
    given = inputs()
    results(given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results(given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_dropped_choices_raise_at_a_later_call() -> None:
    given = inputs(dtype=torch.float32)
    bad = given | {"topk_idx": given["topk_idx"].clone()}
    bad["topk_idx"][::3, 1] = 99
    y = functional.experts(**bad)
    torch.cuda.synchronize()
    with pytest.raises(autoep.InvalidArgumentError, match=r"topk_idx .* nor -1"):
        functional.experts(**given)
    assert_close([y.detach().cpu()], [reference.experts(**bad).detach().cpu()])
    functional.experts(**given)


def test_a_captured_graph_gives_the_same_bits(kernels: str) -> None:
    given = inputs()
    expected = {seed: run(inputs(seed=seed)) for seed in (1, 2)}
    grad_y = torch.empty_like(given["x"])
    leaves = [t for t in given.values() if t is not None and t.requires_grad]

    def step() -> list[torch.Tensor]:
        y = functional.experts(**given)
        grad_y.fill_(1.0).add_(0.5 * y.detach())
        return [y, *torch.autograd.grad(y, leaves, grad_y)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = step()
    for seed, eager in expected.items():
        for name, other in inputs(seed=seed).items():
            if other is not None:
                given[name].data.copy_(other.data)
        graph.replay()
        torch.cuda.synchronize()
        assert_all_same_bits([t.detach().cpu() for t in captured], eager)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic: bool) -> None:
    compiled = torch.compile(functional.experts, fullgraph=True, dynamic=dynamic)
    for tokens in (515, 96):
        given = inputs((tokens, 4, 16, 256, 384))
        assert_all_same_bits(run(given, compiled), run(given))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(reentrant: bool) -> None:
    given = inputs()

    def body(*values: torch.Tensor | None) -> torch.Tensor:
        return functional.experts(**dict(zip(NAMES, values, strict=True)))

    def saved(**tensors: Any) -> torch.Tensor:
        return checkpoint(body, *tensors.values(), use_reentrant=reentrant)

    assert_all_same_bits(run(given, saved), run(given))


def test_streams_do_not_disturb_each_other() -> None:
    seeds = range(6)
    expected = [run(inputs(seed=seed)) for seed in seeds]
    given = [inputs(seed=seed) for seed in seeds]
    streams = [torch.cuda.Stream() for _ in seeds]
    torch.cuda.synchronize()
    found = []
    for tensors, stream in zip(given, streams, strict=True):
        with torch.cuda.stream(stream):
            found.append(results(tensors))
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert_all_same_bits([t.cpu() for t in ours], theirs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_another_device_gives_the_same_bits() -> None:
    expected = run(inputs())
    assert_all_same_bits(run(inputs(device="cuda:1")), expected)
    assert torch.cuda.current_device() == 0
    mixed = inputs() | {"gate_up": inputs(device="cuda:1")["gate_up"]}
    with pytest.raises(autoep.InvalidArgumentError, match="gate_up is on"):
        functional.experts(**mixed)


def test_gradients_add_up_over_micro_batches() -> None:
    given = inputs(dtype=torch.float32)
    once = run(given)
    for _ in range(2):
        backward(functional.experts(**given))
    twice = take_gradients(given)
    for gradient, single in zip(twice, once[1:], strict=True):
        assert torch.equal(gradient.cpu(), 2 * single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_added_to_float32_buffers(kernels: str, dtype: torch.dtype) -> None:
    given = inputs(dtype=dtype, bias=True)
    buffers = buffers_of(given)
    buffers = buffers._replace(**{n: b.cuda().zero_() for n, b in buffers._asdict().items()})
    for _ in range(2):
        backward(functional.experts(**given, grad_buffers=buffers))
    assert all(given[name].grad is None for name in buffers._fields)
    take_gradients(given)
    names = [name for name in NAMES if name != "topk_idx"]
    gradients = dict(zip(names, run(given)[1:], strict=True))
    for name, buffer in buffers._asdict().items():
        half = (buffer / 2).cpu()
        assert torch.equal(half.to(dtype), gradients[name]), name


@pytest.mark.parametrize("score_apply", ["after", "before"])
def test_only_gradients_that_are_wanted_are_computed(kernels: str, score_apply: str) -> None:
    given = inputs()
    names = [name for name in NAMES if given[name] is not None and name != "topk_idx"]
    all_of_them = dict(zip(names, run(given, score_apply=score_apply)[1:], strict=True))
    for count in range(1, len(names)):
        for wanted in itertools.combinations(names, count):
            for name in names:
                given[name].requires_grad_(name in wanted)
            backward(functional.experts(**given, score_apply=score_apply))
            for name in names:
                gradient = given[name].grad
                assert (gradient is not None) == (name in wanted)
                if gradient is not None:
                    assert_all_same_bits([gradient.cpu()], [all_of_them[name]])
            take_gradients(given)


def test_under_autocast_it_computes_in_its_type() -> None:
    given = inputs(dtype=torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        y = functional.experts(**given)
        assert y.dtype == torch.nn.functional.linear(given["x"], given["gate_up"][0]).dtype
    found = [backward(y).cpu(), *(t.cpu() for t in take_gradients(given))]
    rounded = {
        name: t.detach().bfloat16().requires_grad_() if name in ("x", "gate_up", "down") else t
        for name, t in given.items()
    }
    for a, e in zip(found, run(rounded), strict=True):
        assert torch.equal(a, e.to(a.dtype))


def test_without_gradients_nothing_is_kept() -> None:
    given = inputs((4096, 4, 16, 256, 384))
    with torch.no_grad():
        functional.experts(**given)
        before = torch.cuda.memory_allocated()
        y = functional.experts(**given)
    assert torch.cuda.memory_allocated() - before <= y.nbytes + 4096


def test_statistics_count_the_calls_on_gpus() -> None:
    functional.reset_statistics()
    run(inputs((5, 3, 3, 8, 8)))
    counted = functional.statistics()
    assert (counted.forward_calls, counted.backward_calls, counted.rows_sent) == (1, 1, 15)
