"""The operators around the engine's experts on one GPU, with plain torch in the engine's place.

What a GPU computes is tested in cuda/; here is what torch does with the operators.
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
    results,
    take_gradients,
)
from support.plain_gpu import PlainGPU
from torch import nn
from torch.utils.checkpoint import checkpoint

import autoep
from autoep import functional

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
def test_gradients_are_those_of_the_engine(gpu: PlainGPU, bias: bool, tokens: int) -> None:
    given = inputs(bias=bias, tokens=tokens)
    assert_close(results(given), results(given, reference.experts))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_break(gpu: PlainGPU, backend: str, dynamic: bool) -> None:
    def block(x: torch.Tensor, **others: Any) -> torch.Tensor:
        return functional.experts(x * 2, **others) + 1

    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=dynamic)
    for tokens in (T, T + 6):
        given = inputs(tokens=tokens)
        assert_all_same_bits(results(given, compiled), results(given, block))


@pytest.mark.parametrize("preset", models.PRESET_NAMES)
def test_blocks_of_models_compile_without_a_break(gpu: PlainGPU, preset: str) -> None:
    """With the engine as their experts, and with all that `initialize` puts into them."""
    model = models.tiny(preset)
    model.set_experts_implementation("autoep")
    x = torch.randn(2, 9, 32, requires_grad=True)
    for initialized in (False, True):
        if initialized:
            engine, *_ = autoep.initialize(model=model, config={})
            engine._load.counting = True
        block = model.model.layers[1].mlp
        gpu.forwards.clear()
        found = []
        for call in (torch.compile(block, fullgraph=True, backend="aot_eager"), block):
            y = call(x)
            y = y[0] if isinstance(y, tuple) else y
            found.append([y, *torch.autograd.grad(y.square().sum(), (x, *block.parameters()))])
        assert_all_same_bits(*([t.detach() for t in each] for each in found))
        assert len(gpu.forwards) == 2
    engine._load.end_step()
    assert engine.expert_load().sum() == 2 * 2 * 9 * 2


def test_the_fake_kernel_is_like_the_operator(gpu: PlainGPU) -> None:
    given = [None if t is None else t.detach() for t in inputs().values()]
    options = (1, 2, 1, 1, 1.702, 7.0)
    torch.library.opcheck(
        torch.ops.autoep.local_experts,
        (*given, *options),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_the_types_are_those_of_linear(gpu: PlainGPU, compiled: bool) -> None:
    given = inputs()
    run = functional.experts
    if compiled:
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        y = run(**given)
        linear = nn.functional.linear(given["x"], given["gate_up"][0])
    assert y.dtype == linear.dtype == torch.bfloat16
    assert gpu.forwards[-1]["x"].dtype == torch.bfloat16
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
def test_activation_checkpointing_gives_the_same_bits(gpu: PlainGPU, reentrant: bool) -> None:
    given = inputs()

    def run(**tensors: Any) -> torch.Tensor:
        call = lambda *values: functional.experts(**dict(zip(NAMES, values, strict=True)))  # noqa: E731
        return checkpoint(call, *tensors.values(), use_reentrant=reentrant)

    plain = results(given)
    forwards = len(gpu.forwards)
    assert_all_same_bits(results(given, run), plain)
    assert len(gpu.forwards) == forwards + 2


def test_memory_is_used_again_where_nothing_reads_it_later(gpu: PlainGPU) -> None:
    given = inputs()
    expected = results(given)
    assert gpu.backwards[-1]["in place"]

    def twice(**tensors: Any) -> torch.Tensor:
        y = functional.experts(**tensors)
        y.backward(torch.ones_like(y), retain_graph=True)
        assert not gpu.backwards[-1]["in place"]
        take_gradients(given)
        return y

    assert_all_same_bits(results(given, twice), expected)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        y = functional.experts(**given)
    backward(y)
    assert not gpu.backwards[-1]["in place"]


@pytest.mark.parametrize("experts", [1, E])
def test_scratch_is_in_a_gradient_with_room_for_it(gpu: PlainGPU, experts: int) -> None:
    given = inputs()
    copies = given["topk_idx"].numel()
    if experts == 1:
        given["topk_idx"].zero_()
        for name in ("gate_up", "gate_up_bias", "down", "down_bias"):
            given[name] = given[name].detach()[:1].clone().requires_grad_()
    has_room = given["gate_up"].numel() >= copies * given["down"].shape[2]
    backward(functional.experts(**given))
    assert gpu.backwards[-1]["borrowed"] == has_room
    assert gpu.backwards[-1]["scratch in grad_x"]
    assert has_room == (experts == E)


def test_only_gradients_that_are_wanted_are_computed(gpu: PlainGPU) -> None:
    names = [name for name in NAMES if name != "topk_idx"]
    for wanted in [*([name] for name in names), ["x", "topk_weights"], names]:
        given = inputs()
        for name in names:
            given[name].requires_grad_(name in wanted)
        backward(functional.experts(**given))
        assert gpu.backwards[-1]["wanted"] == [name in wanted for name in names]
        for name in names:
            assert (given[name].grad is not None) == (name in wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(gpu: PlainGPU, mode: Any) -> None:
    given = inputs()
    expected = functional.experts(**given)
    with mode():
        y = functional.experts(**given)
    assert not y.requires_grad
    assert_same_bits(y, expected.detach())


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_added_to_buffers(gpu: PlainGPU, compiled: bool) -> None:
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


def test_buffers_that_do_not_fit_are_refused(gpu: PlainGPU) -> None:
    given = inputs()
    buffers = buffers_of(given)
    for wrong in (None, 3, buffers.down.bfloat16(), buffers.down[:, 1:], buffers.down.to("meta")):
        with pytest.raises(autoep.InvalidArgumentError, match=r"grad_buffers\.down: expected"):
            functional.experts(**given, grad_buffers=buffers._replace(down=wrong))
    given["down"].requires_grad_(False)
    backward(functional.experts(**given, grad_buffers=buffers._replace(down=None)))


def test_strided_inputs_are_read_as_they_look(gpu: PlainGPU) -> None:
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
        ({"x": torch.ones(3, H).double()}, "x: expected one of 'float32', 'bfloat16'"),
        ({"activation": "tanh"}, "activation: expected one of"),
        ({"layout": 3}, "layout: expected one of 'out_in', 'in_out', got 3"),
        ({"num_experts": E + 1}, "num_experts: gate_up has 4 experts, got 5"),
    ],
)
def test_what_does_not_fit_is_refused(gpu: PlainGPU, change: dict[str, Any], message: str) -> None:
    with pytest.raises(autoep.InvalidArgumentError, match=message):
        functional.experts(**(inputs() | change))


def test_other_ranks_are_refused(gpu: PlainGPU) -> None:
    given = inputs()
    functional.experts(**given, comm=autoep.Communicator.alone(), num_experts=E)
    with pytest.raises(autoep.UnsupportedError, match=r"comm: .*several GPUs is not in this"):
        functional.experts(**given, comm=autoep.Communicator.local(2)[0], num_experts=E)
    with pytest.raises(autoep.UnsupportedError, match=r"plan: .*several GPUs is not in this"):
        functional.experts(**given, plan=object())


def test_buffers_are_for_gpus() -> None:
    given = inputs()
    with pytest.raises(autoep.UnsupportedError, match=r"grad_buffers: .* on GPUs only"):
        functional.experts(**given, grad_buffers=buffers_of(given))
