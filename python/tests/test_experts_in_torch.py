"""What torch does with the experts: autograd, autocast, compilation, checkpointing.

On GPUs the same is tested in cuda/.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_layer import NAMES, LayerShape, random_layer
from support import models, reference
from support.compare import assert_all_same_bits, assert_close, assert_same_bits
from support.passes import (
    backward,
    buffers_of,
    rank_part,
    results,
    take_gradients,
)
from support.ranks import run_ranks
from support.watched_engine import WatchedEngine
from torch import nn
from torch.utils.checkpoint import checkpoint

import autoep
from autoep import functional
from autoep.core.native import engine
from autoep.core.options import experts_options
from autoep.distributed.communicator import Communicator

T, K, E, H, FFN = 11, 2, 4, 6, 5


def inputs(
    dtype: torch.dtype = torch.float32, bias: bool = True, tokens: int = T
) -> dict[str, torch.Tensor | None]:
    """What `functional.experts` takes."""
    shape = LayerShape(tokens, K, E, H, FFN, biases=bias)
    return random_layer(
        shape, dtype, seed=3, weight_dtype=torch.float32, signed_weights=True
    ).given()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, T])
def test_gradients_are_those_of_plain_torch(bias: bool, tokens: int) -> None:
    given = inputs(bias=bias, tokens=tokens)
    assert_close(results(given), results(given, reference.experts))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_break(backend: str, dynamic: bool) -> None:
    def block(x: torch.Tensor, **others: Any) -> torch.Tensor:
        return functional.experts(x * 2, **others) + 1

    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=dynamic)
    for tokens in (T, T + 6):
        given = inputs(tokens=tokens)
        assert_all_same_bits(results(given, compiled), results(given, block))


@pytest.mark.parametrize("preset", models.PRESET_NAMES)
def test_blocks_of_models_compile_without_a_break(watched: WatchedEngine, preset: str) -> None:
    """With the engine as their experts, and with all that `initialize` puts into them."""
    model = models.tiny(preset)
    model.set_experts_implementation("autoep")
    x = torch.randn(2, 9, 32, requires_grad=True)
    for initialized in (False, True):
        if initialized:
            engine, *_ = autoep.initialize(model=model, config={})
            engine._load.counting = True
        block = model.model.layers[1].mlp
        watched.forwards.clear()
        found = []
        for call in (torch.compile(block, fullgraph=True, backend="aot_eager"), block):
            y = call(x)
            y = y[0] if isinstance(y, tuple) else y
            found.append([y, *torch.autograd.grad(y.square().sum(), (x, *block.parameters()))])
        assert_all_same_bits(*([t.detach() for t in each] for each in found))
        assert len(watched.forwards) == 2
    engine._load.end_step()
    assert engine.expert_load().sum() == 2 * 2 * 9 * 2


_CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


def test_fake_kernels_are_like_the_operators() -> None:
    given = [None if t is None else t.detach() for t in inputs().values()]
    layer = (*experts_options(E, K, H, FFN, "float32"), 0, engine.version())
    x, idx, topk_weights, *weights = given
    size = (T * K, 0, 0)
    _, saved, plan = torch.ops.autoep.experts(*given, None, 0, 0, 0, *layer)
    rows = torch.ops.autoep.dispatch(x, topk_weights, plan, *size, T * K, *layer)
    gradients = [torch.empty_like(tensor) for tensor in (x, topk_weights, *weights)]
    # Of bytes only some are written, so results of two runs differ in the others.
    of_bytes = ("plan", "experts")
    for operator, arguments in (
        ("plan", (idx,)),
        ("experts", (*given, None, 0, 0, 0)),
        ("experts", (x, None, topk_weights, *weights, plan, *size)),
        ("experts_backward", (x, x, topk_weights, *weights, plan, *size, saved, *gradients, False)),
        ("dispatch", (x, None, plan, *size, T * K)),
        ("combine", (rows, topk_weights, plan, *size, T)),
        ("combine_backward", (x, rows, topk_weights, plan, *size)),
    ):
        torch.library.opcheck(
            getattr(torch.ops.autoep, operator),
            (*arguments, *layer),
            test_utils=_CHECKS[:2] if operator in of_bytes else _CHECKS,
        )


@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_the_types_are_those_of_linear(
    watched: WatchedEngine, compiled: bool
) -> None:
    given = inputs()
    run = functional.experts
    if compiled:
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        y = run(**given)
        linear = nn.functional.linear(given["x"], given["gate_up"][0])
    assert y.dtype == linear.dtype == torch.bfloat16
    assert watched.forwards[-1]["dtype"] == torch.bfloat16
    ours = [backward(y), *take_gradients(given)]
    assert {gradient.dtype for gradient in ours[1:]} == {torch.float32}
    rounded = {
        name: t.detach().bfloat16().requires_grad_(t.requires_grad)
        if t.is_floating_point() and name != "topk_weights"
        else t
        for name, t in given.items()
    }
    for a, e in zip(ours, results(rounded), strict=True):
        assert_same_bits(a.float(), e.float())


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(
    watched: WatchedEngine, reentrant: bool
) -> None:
    given = inputs()

    def run(**tensors: Any) -> torch.Tensor:
        call = lambda *values: functional.experts(**dict(zip(NAMES, values, strict=True)))  # noqa: E731
        return checkpoint(call, *tensors.values(), use_reentrant=reentrant)

    plain = results(given)
    forwards = len(watched.forwards)
    assert_all_same_bits(results(given, run), plain)
    assert len(watched.forwards) == forwards + 2


def test_memory_is_used_again_where_nothing_reads_it_later(watched: WatchedEngine) -> None:
    given = inputs()
    expected = results(given)
    assert watched.backwards[-1]["in place"]

    def twice(**tensors: Any) -> torch.Tensor:
        y = functional.experts(**tensors)
        y.backward(torch.ones_like(y), retain_graph=True)
        assert not watched.backwards[-1]["in place"]
        take_gradients(given)
        return y

    assert_all_same_bits(results(given, twice), expected)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        y = functional.experts(**given)
    backward(y)
    assert not watched.backwards[-1]["in place"]


def test_scratch_is_in_the_gradients(watched: WatchedEngine) -> None:
    """A backward needs less memory of its own where gradients are made that it can work in."""
    given = inputs()
    backward(functional.experts(**given))
    with_all = watched.backwards[-1]["workspace"]
    backward(functional.experts(**given, grad_buffers=buffers_of(given)))
    with_buffers = watched.backwards[-1]["workspace"]
    for name in ("x", "gate_up"):
        given[name].requires_grad_(False)
    backward(functional.experts(**given))
    with_fewer = watched.backwards[-1]["workspace"]
    assert with_all < with_buffers < with_fewer


def test_only_gradients_that_are_wanted_are_computed(watched: WatchedEngine) -> None:
    names = [name for name in NAMES if name != "topk_idx"]
    for wanted in [*([name] for name in names), ["x", "topk_weights"], names]:
        given = inputs()
        for name in names:
            given[name].requires_grad_(name in wanted)
        backward(functional.experts(**given))
        assert watched.backwards[-1]["wanted"] == [name in wanted for name in names]
        for name in names:
            assert (given[name].grad is not None) == (name in wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode: Any) -> None:
    given = inputs()
    expected = functional.experts(**given)
    with mode():
        y = functional.experts(**given)
    assert not y.requires_grad
    assert_same_bits(y, expected.detach())


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_added_to_buffers(compiled: bool) -> None:
    run = functional.experts
    if compiled:
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    given = inputs(torch.bfloat16)
    expected = results(given)
    buffers = buffers_of(given)
    first, second = (run(**given, grad_buffers=buffers) for _ in range(2))
    backward(second)
    backward(first)
    assert all(given[name].grad is None for name in buffers._fields)
    for name, gradient in zip([n for n in NAMES if n != "topk_idx"], expected[1:], strict=True):
        if name in buffers._fields:
            total = getattr(buffers, name) - 1
            assert (total - 2 * gradient.float()).norm() <= 0.02 * total.norm()
        else:
            assert torch.equal(given[name].grad, 2 * gradient)


def test_buffers_that_do_not_fit_are_refused() -> None:
    given = inputs()
    buffers = buffers_of(given)
    for wrong in (None, 3, buffers.down.bfloat16(), buffers.down[:, 1:], buffers.down.to("meta")):
        with pytest.raises(autoep.InvalidArgumentError, match=r"grad_buffers\.down: expected"):
            functional.experts(**given, grad_buffers=buffers._replace(down=wrong))
    given["down"].requires_grad_(False)
    backward(functional.experts(**given, grad_buffers=buffers._replace(down=None)))


def test_strided_inputs_are_read_as_they_look() -> None:
    given = inputs()
    expected = results(given)
    for name in ("x", "topk_weights", "gate_up", "down", "topk_idx"):
        tensor = given[name]
        strided = tensor.detach().transpose(0, 1).contiguous().transpose(0, 1)
        other = given | {name: strided.requires_grad_(tensor.requires_grad)}
        assert_all_same_bits(results(other), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk_idx": None}, "topk_idx: expected a torch.Tensor"),
        ({"x": torch.ones(3)}, r"x: expected 2 dimensions, got shape \[3\]"),
        ({"down": torch.ones(3, 4)}, "down: expected 3 dimensions"),
        ({"x": torch.ones(T, H).double()}, "gate_up"),
        ({"activation": "tanh"}, "activation: expected one of"),
        ({"layout": 3}, "layout: expected one of 'out_in', 'in_out', got 3"),
        ({"num_experts": E + 1}, "gate_up"),
        ({"grad_buffers": functional.GradBuffers(None, None, None, None)}, "grad_buffers.gate_up"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(autoep.InvalidArgumentError, match=message):
        functional.experts(**(inputs() | change))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="swiglu_beta"):
        functional.experts(**inputs(), swiglu_beta=1.0)


def test_buffers_are_for_torch() -> None:
    given = inputs()
    arrays = {name: tensor.detach().numpy() for name, tensor in given.items()}
    with pytest.raises(autoep.InvalidArgumentError, match=r"grad_buffers: expected None"):
        functional.experts(**arrays, grad_buffers=buffers_of(given))


def test_buffers_get_gradients_in_f32() -> None:
    """The gradients of bfloat16 weights are not rounded on their way."""
    given = inputs(torch.bfloat16, tokens=200)
    buffers = buffers_of(given)
    for buffer in buffers:
        buffer.zero_()
    backward(functional.experts(**given, grad_buffers=buffers))
    take_gradients(given)
    backward(functional.experts(**given))
    for name, buffer in buffers._asdict().items():
        assert torch.equal(buffer.bfloat16(), given[name].grad), name
        assert not torch.equal(buffer.bfloat16().float(), buffer), name


@pytest.mark.parametrize("compiled", [False, True])
def test_ranks_add_to_buffers_and_follow_autocast(compiled: bool) -> None:
    """Over two ranks the same as over one."""
    layer = random_layer(LayerShape(T, K, E, H, FFN, biases=True))
    splits = [4, T - 4]
    with torch.autocast("cpu", torch.bfloat16):
        whole = functional.experts(**layer.given())
    whole.backward(layer.grad_y.bfloat16())

    @torch._dynamo.config.patch(capture_scalar_outputs=True)
    def body(comm: Communicator) -> list[torch.Tensor]:
        part = rank_part(layer, comm, splits)
        given = part.given()
        buffers = buffers_of(given)
        run = functional.experts
        if compiled:
            run = torch.compile(run, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", torch.bfloat16):
            y = run(**given, num_experts=E, comm=comm, grad_buffers=buffers)
        y.backward(part.grad_y.bfloat16())
        assert all(given[name].grad is None for name in buffers._fields)
        return [y.detach(), part.x.grad, part.topk_weights.grad, *(b - 1 for b in buffers)]

    y, grad_x, grad_topk_weights, *grads = map(torch.cat, zip(*run_ranks(2, body), strict=True))
    assert_same_bits(y, whole.detach())
    assert_same_bits(grad_x, layer.x.grad)
    assert_same_bits(grad_topk_weights, layer.topk_weights.grad)
    for name, gradient in zip(functional.GradBuffers._fields, grads, strict=True):
        expected = getattr(layer, name).grad
        assert (gradient - expected).norm() <= 0.01 * expected.norm(), name


@pytest.mark.parametrize("dynamic", [False, True])
def test_ranks_compile_without_a_break(dynamic: bool) -> None:
    """torch traces the number of rows that come where it is told to trace such numbers."""
    layer = random_layer(LayerShape(T, K, E, H, FFN, biases=True), torch.float32)

    def block(x: torch.Tensor, *tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        return functional.experts(x * 2, *tensors, **options) + 1

    @torch._dynamo.config.patch(capture_scalar_outputs=True)
    def body(comm: Communicator) -> list[Any]:
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        found = []
        for splits in ([4, T - 4], [T - 3, 3]):
            part = rank_part(layer, comm, splits)
            runs = [part.clone().run(run, comm=comm, num_experts=E) for run in (compiled, block)]
            found.append(runs)
        return found

    for found in run_ranks(2, body):
        for compiled, eager in found:
            assert_all_same_bits(compiled, eager)


@pytest.mark.parametrize("dynamic", [False, True])
@torch._dynamo.config.patch(capture_scalar_outputs=True)
def test_dispatch_and_combine_compile_without_a_break(dynamic: bool) -> None:
    def run(x: torch.Tensor, idx: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        rows, _, plan = functional.dispatch(x, idx, num_experts=E, topk_weights=weights)
        return functional.combine(2 * rows, plan, weights)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for tokens in (T, T + 6):
        layer = random_layer(LayerShape(tokens, K, E, H, FFN), without_expert=3)
        leaves = (layer.x, layer.topk_weights)
        found = []
        for call in (compiled, run):
            y = call(layer.x, layer.topk_idx, layer.topk_weights)
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
        assert_all_same_bits(*found)
